"""Lists of names in messages."""

import pytest

from vit_patch_env.system.shown import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["dog"], "dog"),
        (("dog", "cat"), "dog, cat"),
        ([10, 9], "10, 9"),
        ("abcde", "a, b, c, d, e"),
        ("abcdef", "a, b, c, d, e and 1 more"),
        ((str(number) for number in range(1300)), "0, 1, 2, 3, 4 and 1,295 more"),
        (["a\nb", "\x1b[2J", "\udcff"], r"a\nb, \x1b[2J, \xff"),
    ],
)
def test_names_are_listed_in_order_the_first_of_many(names, text):
    assert listed(names) == text
