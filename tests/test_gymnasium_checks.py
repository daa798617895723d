"""Gymnasium's checks of the variants of the environment; `make clients` makes them of all."""

import itertools

import pytest

from tests.gymnasium_checks import CHECKS, VALUES, expected_warnings, pairwise

pytestmark = pytest.mark.usefixtures("flops_counted_once")

VARIANTS = pairwise()


def test_every_two_values_occur_together():
    for one, other in itertools.combinations(range(len(VALUES)), 2):
        together = {(variant[one], variant[other]) for variant in VARIANTS}
        assert together == set(itertools.product(VALUES[one], VALUES[other]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant(variant, check):
    with expected_warnings():
        check(variant)
