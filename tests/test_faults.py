"""A few of the faults that `make faults` tries many times."""

import pytest

from tests.faults import (
    Faults,
)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


def all_equal(outcome):
    assert outcome.problems == []
    assert outcome.equal == outcome.tried > 0


def test_killed_runs_come_to_the_same_end(faults):
    all_equal(faults.kills(2, ["ppo", "random"]))


def test_a_run_that_is_told_to_stop_says_how_to_go_on_and_comes_to_the_same_end(faults):
    all_equal(faults.stops(1, ["random"]))


def test_a_run_goes_on_behind_a_full_disk(faults):
    try:
        outcome = faults.full_disks(1, ["random"])
    except PermissionError as error:
        pytest.skip(str(error))
    all_equal(outcome)


def test_a_killed_worker_is_replaced_and_goes_on(faults):
    all_equal(faults.workers(1))
