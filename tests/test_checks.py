import math
import pickle
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Interval, MultipleOf

from vit_patch_env.checks import ArgumentError, check, check_choice, check_integer, describe

UNIT = Annotated[float, Interval(ge=0, le=1)]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (UNIT, 0),
        (UNIT, 1),
        (UNIT, np.float32(0.5)),
        (Annotated[float, Interval(gt=0, lt=1)], 0.5),
        (Annotated[int, Interval(ge=1)], 10**6),
        (Annotated[int, Interval(ge=1)], np.int64(3)),
    ],
)
def test_check_accepts_values_in_range(annotation, value):
    assert check(annotation, value=value) == value


@pytest.mark.parametrize(
    ("annotation", "interval", "value"),
    [
        (Annotated[float, Interval(gt=0, le=1)], "(0, 1]", 0),
        (Annotated[float, Interval(ge=0, lt=1)], "[0, 1)", 1),
        (UNIT, "[0, 1]", -0.1),
        (Annotated[float, Interval(ge=1)], "[1, inf)", math.inf),
        (UNIT, "[0, 1]", math.nan),
    ],
)
def test_check_states_what_was_expected_and_what_was_given(annotation, interval, value):
    with pytest.raises(ValueError, match="alpha must be in") as error:
        check(annotation, alpha=value)
    assert interval in str(error.value)
    assert str(value)[:50] in str(error.value)


@pytest.mark.parametrize("value", ["1", True, None, [0.5]])
def test_texts_and_booleans_are_not_numbers(value):
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\], got"):
        check(UNIT, alpha=value)


def test_check_choice_names_the_choices():
    check_choice(("a", None), name=None)
    with pytest.raises(ValueError, match="name must be one of a, None, got 'b'"):
        check_choice(("a", None), name="b")


@pytest.mark.parametrize("value", ["c", ["a"], np.ones(2), 1])
def test_literals_name_the_choices(value):
    assert check(Literal["a", "b"], name="a") == "a"
    with pytest.raises(ValueError, match="name must be one of a, b, got"):
        check(Literal["a", "b"], name=value)


@pytest.mark.parametrize("value", [2.0, "2", True, None])
def test_check_integer_takes_integers_only(value):
    check_integer(1, 3, epochs=2)
    with pytest.raises(ValueError, match=r"epochs must be an integer in \[1, 3\], got"):
        check_integer(1, 3, epochs=value)


def test_multiples_are_named():
    with pytest.raises(ValueError, match="dim must be divisible by 4, got 6"):
        check(Annotated[int, Interval(ge=1), MultipleOf(4)], dim=6)
    with pytest.raises(ValueError, match=r"dim must be in \[1, inf\), got 0"):
        check(Annotated[int, Interval(ge=1), MultipleOf(4)], dim=0)


def test_what_is_allowed_is_described():
    assert describe(Annotated[int | None, Interval(ge=1)]) == "an integer in [1, inf) or None"
    assert describe(bool | None) == "one of False, True, None"
    assert describe(str | None) == "text or None"


def test_the_name_can_be_read_from_the_error_in_another_process_too():
    error = pickle.loads(pickle.dumps(ArgumentError("alpha", "must be in [0, 1], got 2")))
    assert error.name == "alpha"
    assert str(error) == "alpha must be in [0, 1], got 2"


def test_an_argument_error_is_copied_as_gymnasium_does_it():
    error = ArgumentError("alpha", "must be in [0, 1], got 2")
    for copy in (type(error)(error), pickle.loads(pickle.dumps(error))):
        assert (str(copy), copy.name, copy.problem) == (str(error), error.name, error.problem)
