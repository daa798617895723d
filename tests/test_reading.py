"""Files from outside are regular ones of limited size, and what they contain has bounds."""

import io
import json
import os
import socket
import zipfile

import pytest
import torch

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.reading import (
    JSON_DEPTH,
    open_archive,
    parse_json,
    read_bytes,
    read_end,
    read_json,
    read_member,
)
from vit_patch_env.system.files import load_state, load_tensors, save_state
from vit_patch_env.system.tensors import check_optimizer_state


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pipe(path):
    os.mkfifo(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (pipe, "a named pipe"),
        (lambda path: path.mkdir(), "a folder"),
        (listening, "a socket"),
        (device, "a device"),
        (lambda path: path.write_bytes(bytes(2001)), "2 kB, more than the 1 kB that it may have"),
        (lambda path: None, "No such file or directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_of_that_size_is_refused_at_once(make, got, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as paths of sockets are short
    path = tmp_path / "x"
    make(path.relative_to(tmp_path) if make is listening else path)
    with pytest.raises(InputError, match=f"^expected JSON in {path}, got: {got}$"):
        read_bytes(path, 1000, "JSON")


def test_a_path_with_a_null_character_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^expected JSON in .*null"):
        read_bytes(tmp_path / "a\0b", 1000, "JSON")


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 3, "text") == b"abc"
    assert read_end(tmp_path / "link", 2) == b"bc"
    assert read_end(tmp_path / "nowhere", 2) == b""


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "values nested more than 64 deep"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "values nested more than 64 deep"),
        (b"1" * 5000, "an integer of 5000 digits"),
        (b"-" + b"1" * 309, "an integer of 310 digits"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
    ],
)
def test_json_beyond_its_bounds_is_refused(text, got):
    with pytest.raises(InputError, match=f"^{got}"):
        parse_json(text)


def test_json_within_its_bounds_is_read_as_by_python():
    text = b'{"a": NaN, "a": 1, "b": [Infinity, 1e999, -0.0], "c": "\xc3\xa9"}'
    assert parse_json(text) == json.loads(text.decode())
    deep = b"[" * JSON_DEPTH + b"]" * JSON_DEPTH
    assert parse_json(deep) == json.loads(deep)
    assert parse_json(b"1" * 308) == int("1" * 308)


def test_a_json_file_holds_an_object(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match=f"^expected a JSON object in {path}, got list$"):
        read_json(path)
    path.write_bytes(b" " * 20_000_000)
    with pytest.raises(InputError, match="got: 20 MB, more than the 16 MB that it may have"):
        read_json(path)


def test_an_archive_that_unpacks_to_much_more_is_refused_before_it_is_unpacked():
    bomb = zipped({"card": bytes(70_000_000)})
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match=r"that unpacks to 70 MB, more than 64 MB$"):
        open_archive(bomb)


def test_a_member_whose_size_is_wrong_in_the_listing_is_bounded():
    content = bytearray(zipped({"card": bytes(3_000_000)}))
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = content.find(signature) + at
        content[start : start + 4] = (10).to_bytes(4, "little")
    with pytest.raises(InputError), open_archive(bytes(content)) as archive:
        read_member(archive, "card", 1_000_000)
    with (
        open_archive(zipped({"card": bytes(3_000_000)})) as archive,
        pytest.raises(InputError, match=r"^a card of more than 1 MB$"),
    ):
        read_member(archive, "card", 1_000_000)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_burst_are_refused(compression):
    with pytest.raises(InputError, match="another compression than deflate"):
        open_archive(zipped({"card": b"x"}, compression))


def test_archives_of_weights_are_read():
    content = saved({"a": torch.arange(3)})
    assert torch.equal(load_tensors(content)["a"], torch.arange(3))
    with open_archive(zipped({"card": b"x", "other": b"y"})) as archive:
        assert read_member(archive, "card", 10) == b"x"
        with pytest.raises(InputError, match="There is no item named 'third'"):
            read_member(archive, "third", 10)


def repeated():
    value = [1]
    for _ in range(40):
        value = [value, value, value, value]
    return value


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (repeated, "more items than the file has bytes"),
        (lambda: torch.zeros(1).expand(10**12), "a tensor of 4e[+]03 GB that repeats its elements"),
        (lambda: {"a": torch.zeros(2, device="meta")}, "a tensor of layout torch.strided on meta"),
    ],
)
def test_tensors_and_items_beyond_a_files_size_are_refused(make, got, tmp_path):
    save_state(tmp_path / "state", make())  # with a valid checksum
    with pytest.raises(InputError, match=f"^expected plain data and tensors in .*, got {got}"):
        load_state(tmp_path / "state")


def test_a_deeply_nested_state_is_refused(tmp_path):
    value = ()
    for _ in range(150):
        value = (value, 1.5)
    save_state(tmp_path / "state", value)
    with pytest.raises(InputError, match="containers nested more than 100 deep"):
        load_state(tmp_path / "state")


def test_a_packed_state_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(io.BytesIO(saved(torch.zeros(20_000_000)))) as archive:
        packed = zipped({name: archive.read(name) for name in archive.namelist()})
    with pytest.raises(InputError, match="that unpacks to 80 MB"):
        load_tensors(packed)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["param_groups"][0].update(lr="fast"),
        lambda state: state["param_groups"][0].update(betas=(0.5,)),
        lambda state: state["param_groups"][0].pop("eps"),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(7)),
        lambda state: state["state"][1].pop("exp_avg_sq"),
        lambda state: state["param_groups"].clear(),
    ],
)
def test_an_optimizers_state_of_other_types_is_refused(change):
    weights = [torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)]
    optimizer = torch.optim.Adam(weights)
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    state = optimizer.state_dict()
    check_optimizer_state(optimizer, state)
    change(state)
    with pytest.raises(InputError, match=r"of an optimizer$"):
        check_optimizer_state(optimizer, state)


def test_messages_are_one_line_of_bounded_length():
    error = InputError("expected a, got " + "x" * 10**6 + "\nend")
    assert len(str(error)) < 2100
    assert str(error).startswith("expected a, got xxx")
    assert str(error).endswith("end")
    assert "\n" not in str(error)
    assert len(ArgumentError("a", "y" * 10**6).problem) < 2100
    assert str(InputError("unchanged  as it is")) == "unchanged  as it is"


def test_the_checksum_of_a_member_is_compared():
    content = bytearray(zipped({"card": b"abcdef" * 9}, zipfile.ZIP_STORED))
    content[content.find(b"abcdef")] ^= 1
    with (
        open_archive(bytes(content)) as archive,
        pytest.raises(InputError, match="Bad CRC-32"),
    ):
        read_member(archive, "card", 100)
