"""Gymnasium's checks of variants of the environment: a part of them, or all with `VARIANTS=all`.

All of them are checked by `make clients`.
"""

import itertools
import os

import pytest

from tests.gymnasium_checks import CHECKS, VALUES, crossed, expected_warnings, pairwise

PAIRWISE = pairwise()
VARIANTS = crossed() if os.environ.get("VARIANTS") == "all" else PAIRWISE


def test_every_two_values_occur_together():
    for one, other in itertools.combinations(range(len(VALUES)), 2):
        together = {(variant[one], variant[other]) for variant in PAIRWISE}
        assert together == set(itertools.product(VALUES[one], VALUES[other]))


@pytest.mark.one_in(37)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant(variant, check):
    with expected_warnings():
        check(variant)
