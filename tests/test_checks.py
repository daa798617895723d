import math

import pytest

from vit_patch_env.checks import check_choice, check_interval, check_whole


@pytest.mark.parametrize(
    ("interval", "value"), [("[0, 1]", 0), ("[0, 1]", 1), ("(0, 1)", 0.5), ("[1, inf)", 10**6)]
)
def test_check_interval_accepts_what_lies_inside(interval, value):
    check_interval(interval, value=value)


@pytest.mark.parametrize(
    ("interval", "value"),
    [("(0, 1]", 0), ("[0, 1)", 1), ("[0, 1]", -0.1), ("[1, inf)", math.inf), ("[0, 1]", math.nan)],
)
def test_check_interval_names_what_was_expected_and_what_came(interval, value):
    with pytest.raises(ValueError, match="alpha must be in") as error:
        check_interval(interval, alpha=value)
    assert interval in str(error.value)
    assert str(value) in str(error.value)


def test_check_choice_names_the_choices():
    check_choice(("a", None), name=None)
    with pytest.raises(ValueError, match="name must be one of a, None, got 'b'"):
        check_choice(("a", None), name="b")


@pytest.mark.parametrize("value", [2.0, "2", True, None])
def test_check_whole_takes_whole_numbers_only(value):
    check_whole("[1, 3]", epochs=2)
    with pytest.raises(ValueError, match=r"epochs must be a whole number in \[1, 3\], got"):
        check_whole("[1, 3]", epochs=value)
