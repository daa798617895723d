"""The family of growing schedules: its members are the known rules, and runs follow it."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_cli import train
from vit_patch_env.agents import SCHEDULES, GrowingCount, GrowingOptions

PROGRESS = [step / 200 for step in range(201)]


def test_the_defaults_are_the_schedule_quadratic():
    for progress in PROGRESS:
        expected = SCHEDULES["quadratic"](progress, 4)
        assert GrowingOptions().share(progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (GrowingOptions(first_share=1.0), [64, 64, 64, 64, 64]),
        (GrowingOptions(first_share=1 / 4, power=None), [16, 16, 16, 16, 16]),
        (GrowingOptions(first_share=1 / 4, power=None, all_share=0.5), [16, 16, 64, 64, 64]),
        (GrowingOptions(first_share=1 / 2, power=1.0), [32, 40, 48, 56, 64]),
        (GrowingOptions(first_share=1 / 2, power=1.0, all_share=0.5), [32, 48, 64, 64, 64]),
        (GrowingOptions(first_share=0.001, power=None), [1, 1, 1, 1, 1]),
        (GrowingOptions(first_share=1 / 4, power=1.0, last_share=0.5), [16, 20, 24, 28, 32]),
        (GrowingOptions(first_share=1 / 4, power=1.0, last_share=0.125), [16, 16, 16, 16, 16]),
        (
            GrowingOptions(first_share=1 / 4, power=1.0, last_share=0.5, all_share=0.5),
            [16, 24, 64, 64, 64],
        ),
    ],
)
def test_members_of_the_family(options, counts):
    count = GrowingCount(options, 64)
    assert [count(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == counts


@given(
    st.floats(1e-3, 1),
    st.none() | st.floats(0.01, 100),
    st.floats(0.01, 1),
    st.floats(0, 0.99),
    st.integers(1, 400),
)
def test_the_number_never_falls_and_is_possible(
    first_share, power, last_share, all_share, n_patches
):
    options = GrowingOptions(
        first_share=first_share, power=power, last_share=last_share, all_share=all_share
    )
    counts = [GrowingCount(options, n_patches)(progress) for progress in PROGRESS]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] <= n_patches
    assert counts[-1] == n_patches or power is None or last_share < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (GrowingOptions(), "0.0625 of the patches, growing to all with power 2"),
        (GrowingOptions(last_share=0.5), "0.0625 of the patches, growing to 0.5 with power 2"),
        (GrowingOptions(first_share=0.25, last_share=0.125), "0.25 of the patches"),
        (
            GrowingOptions(first_share=0.25, power=None, all_share=0.2),
            "0.25 of the patches, all for the last 20%",
        ),
        (GrowingOptions(first_share=1.0), "all patches"),
    ],
)
def test_schedules_in_words(options, words):
    assert options.described() == words


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first_share": 0.0}, "first_share must be in"),
        ({"power": 0.0}, "power must be .*, got 0.0"),
        ({"all_share": 1.0}, "all_share must be in"),
        ({"last_share": 0.0}, "last_share must be in"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GrowingOptions(**values)


def test_a_run_keeps_as_many_patches_as_its_options_say(tmp_path):
    options = GrowingOptions(first_share=0.25, power=1.0, all_share=0.5)
    train(
        tmp_path / "run", "--agent", "growing", "--growing.first-share", "0.25",
        "--growing.power", "1", "--growing.all-share", "0.5",
    )  # fmt: skip
    with (tmp_path / "run" / "steps.csv").open() as file:
        counts = [int(row["n_selected"]) for row in csv.DictReader(file)]
    assert counts == [GrowingCount(options, 16)(step / 14) for step in range(14)]
