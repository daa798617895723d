"""Mutations of the content of a file, each a function of random numbers."""

import io
import json
import zipfile
from functools import lru_cache

import numpy as np
import torch

from tests.fuzzing.values import PLAIN, TENSORS, changed, chosen
from vit_patch_env.data import store
from vit_patch_env.system.files import load_tensors

CELLS = [
    "", "nan", "inf", "-inf", "1e400", "-1", "0", "1e30", "9" * 400, "1.5", "x", '"', '"a', "True",
    "0x10", "1_0", " ", "\0", "\r", "é", "\ud800", "x" * 200_000, "epoch",
]  # fmt: skip


def of_bytes(rng, content, others):
    """Flipped, cut, spliced, repeated or exchanged bytes.

    Args:
        rng: random numbers.
        content: of the file.
        others: contents of other files.
    """
    damaged = bytearray(content)
    start, stop = sorted(rng.integers(0, len(content) + 1, size=2).tolist())
    kind = rng.integers(9)
    if kind <= 1:
        for _ in range(int(rng.integers(1, 9)) if content else 0):
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del damaged[start:]
    elif kind == 3:
        del damaged[start:stop]
    elif kind == 4:
        other = chosen(rng, others)
        damaged[start:stop] = other[: int(rng.integers(len(other) + 1))]
    elif kind == 5:
        damaged[start:start] = damaged[start:stop] * int(rng.integers(1, 4))
    elif kind == 6:
        damaged[start:stop] = rng.bytes(min(stop - start, 1000))
    elif kind == 7:
        return chosen(rng, others)
    else:
        return chosen(rng, [b"", b"\0" * 5000, b"\xff\xfe", content * 2, b"[" * 200_000])
    return bytes(damaged)


def of_json(rng, content, others):
    """Other values, types, depths, numbers and encodings; sometimes of bytes."""
    kind = rng.integers(12)
    if kind == 0:
        return of_bytes(rng, content, others)
    value = changed(rng, json.loads(content), PLAIN)
    text = json.dumps(value)
    if kind == 1:
        return text.encode(chosen(rng, ["utf-16", "utf-32", "utf-8-sig"]))
    if kind == 2:
        deep = chosen(rng, ["[" * 200_000, '{"a":' * 100_000, "1" * 5000, "1e999", "-" * 9])
        return text.replace(chosen(rng, text.split(",")), deep, 1).encode()
    if kind == 3:
        return (text[:-1] + "," + text[1:]).encode()  # every key twice
    return text.encode()


def of_table(rng, content, others):
    """Other cells, rows and columns of a table; sometimes of bytes."""
    if rng.integers(4) == 0:
        return of_bytes(rng, content, others)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(int(rng.integers(1, 4))):
        kind, row = rng.integers(6), int(rng.integers(len(rows)))
        column = int(rng.integers(len(rows[row]))) if rows[row] else 0
        if kind == 0:
            rows.insert(row, rows[int(rng.integers(len(rows)))])
        elif kind == 1 and len(rows) > 1:
            del rows[row]
        elif kind == 2:
            rows = [one[:column] + one[column + 1 :] for one in rows]
        elif kind == 3:
            rows = [[*one, *one[column : column + 1]] for one in rows]
        elif rows[row]:
            rows[row] = [*rows[row][:column], chosen(rng, CELLS), *rows[row][column + 1 :]]
    return "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")


@lru_cache(8)
def loaded(content):
    """What torch saved, which mutations copy."""
    return load_tensors(content)


def of_tensors(rng, content, others):
    """Other values and types in what torch saved; sometimes of bytes."""
    if rng.integers(8) == 0:
        return of_bytes(rng, content, others)
    buffer = io.BytesIO()
    torch.save(changed(rng, loaded(content), PLAIN + TENSORS * 3), buffer)
    return buffer.getvalue()


def of_archive(rng, content, others):
    """Other members of a zip file, some of them packed tighter; sometimes of bytes."""
    if rng.integers(4) == 0:
        return of_bytes(rng, content, others)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = chosen(rng, list(members))
    kind = rng.integers(20)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[chosen(rng, ["x.pth", "../x.pth", "policy.optimizer.x.pth", "__class__.pth"])] = (
            members.pop(name)
        )
    elif kind == 2:
        members[name] = b"0" * 80_000_000
    elif name.endswith(".pth"):
        members[name] = of_tensors(rng, members[name], others)
    elif name.endswith(".json") or name == "data":
        members[name] = of_json(rng, members[name], others)
    else:
        members[name] = of_bytes(rng, members[name], others)
    buffer = io.BytesIO()
    packed = chosen(
        rng, [zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED] * 3 + [zipfile.ZIP_BZIP2]
    )
    if kind == 2:
        packed = zipfile.ZIP_DEFLATED  # which is fast
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for member, part in members.items():
            archive.writestr(member, part)
    return buffer.getvalue()


def of_index(rng, content, others):
    """Other rows of an image cache's index, with a checksum that fits; sometimes of bytes."""
    if rng.integers(3) == 0:
        return of_bytes(rng, content, others)
    start = len(store._MAGIC) + 4
    sizes = bytearray(content[start : start + store._SIZES.itemsize])
    rows = np.frombuffer(content[start + len(sizes) :], store._ROW).copy()
    kind = rng.integers(4)
    if kind == 0:
        sizes[rng.integers(len(sizes))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        rows = rows[rng.integers(0, len(rows), size=rng.integers(1, 20))]
    else:
        field = chosen(rng, ["key", "state", "checksum", "sum", "sum_of_squares"])
        raw = rows[field].tobytes()
        rows[field] = np.frombuffer(of_bytes(rng, raw, [raw[::-1]]).ljust(len(raw), b"\1")[
            : len(raw)], rows[field].dtype).reshape(rows[field].shape)  # fmt: skip
    body = bytes(sizes) + rows.tobytes()
    return content[: len(store._MAGIC)] + store.zlib.crc32(body).to_bytes(4, "little") + body
