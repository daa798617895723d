"""Whatever is in a file works or is refused in one line; the mutations are in `tests/fuzzing`.

A case is repeated with the numbers that its problem begins with:
`FUZZ_SEED=0 FUZZ_CASE=123 pytest -m 'long or not long' tests/test_fuzzing.py`. `make faults` tries
20,000 of them, with another seed each time.
"""

import multiprocessing
import os
import random
import resource
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.fuzzing.cases import given_case, problem_of, try_case, try_cases
from tests.fuzzing.targets import all_targets
from tests.fuzzing.values import generator
from vit_patch_env.checks import InputError

SEED = int(os.environ.get("FUZZ_SEED", "0"))
N_CASES = int(os.environ.get("FUZZ_CASES", "20000"))
SLOW_SHARE = 0.02
"""Of the cases, those that are also trained with, evaluated or reported."""

N_PROCESSES = 2

GROWTH_BYTES = 2 * 10**9
"""Of a process's peak memory, which is 0.7 GB before the first case."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("fuzzed")
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield all_targets(root, agents=("random",))


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """As `targets`, with more kinds of checkpoints, for each process."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("fuzzed")
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        folders = [root / str(number) for number in range(N_PROCESSES)]
        for folder in folders:
            folder.mkdir()
        yield [all_targets(folder) for folder in folders]


@pytest.mark.long
def test_files_are_read_as_they_are(targets):
    for target in targets:
        for name, reader in list(target.readers.items())[: target.n_fast]:
            assert problem_of(reader) is None, (target.path, name)


@pytest.mark.long
def test_damaged_files_work_or_are_refused_in_one_line(targets):
    problems, n_tried = try_cases(targets, 0, range(300), slow_share=0.0)
    assert problems == []
    assert n_tried == 300


def bug():
    raise TypeError("a bug")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("x"), "ValueError: x"),
        (RecursionError("deep"), "RecursionError: deep"),
        (InputError("expected this, got that"), None),
        (InputError(""), "not one bounded line: ''"),
    ],
)
def test_other_errors_are_problems(error, problem):
    def reader():
        raise error

    assert problem_of(reader) == problem


@pytest.mark.long
def test_a_reader_that_changes_files_or_raises_is_found_and_the_case_repeats(targets):
    target = targets[0]
    written = target.folder / "stray"
    spoilt = target._replace(
        readers={"writer": lambda: written.write_text("x"), "bug": bug}, n_fast=2
    )
    try:
        first, _ = try_cases([spoilt], 3, [7], slow_share=0.0)
    finally:
        written.unlink()
    assert first == [
        f"FUZZ_SEED=3 FUZZ_CASE=7 {target.path.name} writer: files were changed",
        f"FUZZ_SEED=3 FUZZ_CASE=7 {target.path.name} bug: TypeError: a bug",
    ]
    original = target.path.read_bytes()
    mutated = [target.mutation(generator(3, 7), original, [original]) for _ in range(2)]
    assert mutated[0] == mutated[1]
    assert target.path.read_bytes() == original


FORKED = []
"""Targets of each process, which are forked with them, as readers cannot be pickled."""


def part(number, seed):
    """What a process tries: the problems, how many cases, and by how much its memory grew."""
    cases = range(number, N_CASES, N_PROCESSES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problems, n_tried = try_cases(FORKED[number], seed, cases, slow_share=SLOW_SHARE)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return problems, n_tried, 1024 * growth


@pytest.mark.long
def test_many_damaged_files(of_processes):
    if given_case() is not None:
        seed, case = given_case()
        assert try_case(of_processes[0], seed, case, slow_share=SLOW_SHARE) == []
        return
    seed = SEED or random.SystemRandom().randrange(1, 2**31)
    print(f"\nFUZZ_SEED={seed}, {N_CASES} cases", file=sys.stderr)
    context = multiprocessing.get_context("fork")
    FORKED[:] = of_processes
    with ProcessPoolExecutor(N_PROCESSES, mp_context=context) as pool:
        parts = [pool.submit(part, number, seed) for number in range(N_PROCESSES)]
        outcomes = [one.result() for one in parts]
    assert "\n".join(problem for problems, _, _ in outcomes for problem in problems) == ""
    assert sum(n_tried for _, n_tried, _ in outcomes) == N_CASES
    assert max(growth for _, _, growth in outcomes) < GROWTH_BYTES
