"""Means, deviations and paired differences are those of a plain computation."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from made_results import made

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.evidence.figures import Spread, by_seed, paired, spread


def test_mean_and_deviation_are_those_of_numpy():
    values = (0.51, 0.55, 0.49)
    assert Spread(values).mean == pytest.approx(np.mean(values))
    assert Spread(values).deviation == pytest.approx(np.std(values, ddof=1))
    assert Spread(values).error == pytest.approx(scipy.stats.sem(values))


def test_one_value_has_no_deviation():
    assert Spread((0.5,)).deviation is None


def test_differences_are_taken_seed_by_seed_where_both_arms_have_one():
    results = [made(arm="random", seed=s, knn=v) for s, v in ((2, 0.50), (0, 0.40), (1, 0.45))]
    results += [made(arm="overlap", seed=s, knn=v) for s, v in ((0, 0.41), (2, 0.49), (5, 0.9))]
    found = paired(
        by_seed(results, "scenes", "overlap"), by_seed(results, "scenes", "random"), "knn"
    )
    assert found.values == pytest.approx((0.01, -0.01))


@pytest.mark.parametrize(
    ("values", "agreeing"), [((0.3, 0.1, -0.1), 2), ((-0.3, -0.1, 0.1), 2), ((0.1, 0.0), 1)]
)
def test_seeds_agree_when_they_have_the_sign_of_the_mean(values, agreeing):
    assert Spread(values).agreeing == agreeing


def test_arms_of_other_studies_are_not_mixed_in():
    results = [made(study="cifar10", knn=0.1), made(study="scenes", knn=0.2)]
    assert spread(by_seed(results, "scenes", "random"), "knn").values == (0.2,)
