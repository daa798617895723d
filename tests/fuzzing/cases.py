"""What is tried: a file, how it is damaged, and all that reads it."""

import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzzing.values import chosen, generator
from vit_patch_env.checks import InputError

LONGEST_SECONDS = 30
LONGEST_MESSAGE = 2100


class Hang(BaseException):
    """A case took too long."""


class Target(NamedTuple):
    """A file that is damaged.

    Attributes:
        path: of the file.
        mutation: of its content.
        readers: all that reads it, by name; the first ones are fast.
        n_fast: how many of the readers are tried with every case; of the others one, now and then.
        folder: nothing else in it may change.
        fit: makes checksums fit again, which is done for most of the cases; None if it has none.
    """

    path: Path
    mutation: Callable[..., bytes]
    readers: dict[str, Callable[[], Any]]
    n_fast: int
    folder: Path
    fit: Callable[[], None] | None = None


def listing(folder):
    """What is in a folder, to see whether a reader changed it."""
    return {
        path: (details.st_size, details.st_mtime_ns, details.st_mode)
        for path in folder.rglob("*")
        if not path.name.endswith(".lock")
        for details in [path.lstat()]
    }


@contextmanager
def within(seconds):
    """Raise `Hang` if the block takes longer."""

    def hang(*_):
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def problem_of(reader):
    """What is wrong with how a reader takes a file: None if it works, or says why in one line."""
    try:
        with within(LONGEST_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader()
    except InputError as error:
        said = str(error)
        if "\n" in said or len(said) > LONGEST_MESSAGE or not said:
            return f"not one bounded line: {said[:300]!r}"
    except (Exception, Hang) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def try_case(targets: Sequence[Target], seed: int, case: int, *, slow_share: float) -> list[str]:
    """The problems of a case, each with what repeats it."""
    rng = generator(seed, case)
    target = chosen(rng, targets)
    original = target.path.read_bytes()
    others = [one.path.read_bytes() for one in targets]
    names = list(target.readers)
    tried = names[: target.n_fast]
    if target.n_fast < len(names) and rng.random() < slow_share:
        tried.append(chosen(rng, names[target.n_fast :]))
    fits = target.fit is not None and bool(rng.integers(4))
    result = target.path.with_name("result.json")
    kept = {result: result.read_bytes()} if fits and result.exists() else {}
    target.path.write_bytes(target.mutation(rng, original, others))
    try:
        if fits:
            target.fit()
        problems = []
        for name in tried:
            before = listing(target.folder)
            found = problem_of(target.readers[name])
            if found is None and listing(target.folder) != before:
                found = "files were changed"
            if found is not None:
                where = target.path.name
                problems.append(f"FUZZ_SEED={seed} FUZZ_CASE={case} {where} {name}: {found}")
        return problems
    finally:
        for path, content in {target.path: original, **kept}.items():
            path.write_bytes(content)


def try_cases(targets, seed, cases, *, slow_share, limit_seconds=float("inf")):
    """The problems of some cases, at most ten, and how many were tried."""
    problems, n_tried, began = [], 0, time.monotonic()
    for case in cases:
        problems += try_case(targets, seed, case, slow_share=slow_share)
        n_tried += 1
        if len(problems) >= 10 or time.monotonic() - began > limit_seconds:
            break
    return problems, n_tried


def given_case():
    """The case that the environment names: (seed, case), or None."""
    if "FUZZ_CASE" not in os.environ:
        return None
    return int(os.environ.get("FUZZ_SEED", "0")), int(os.environ["FUZZ_CASE"])
