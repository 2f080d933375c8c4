import numpy as np
import pytest
from scipy import stats
from scipy.special import betaincinv

from ccrop_pipeline.crops.windows import symmetric_beta


@pytest.mark.parametrize(
    ("alpha", "tolerance"),
    [(0.01, 4e-8), (0.1, 4e-8), (0.6, 4e-8), (1.5, 4e-8), (5.0, 4e-8), (20.0, 4e-6), (100.0, 4e-6)],
)
def test_matches_the_exact_quantiles(alpha, tolerance):
    u = np.concatenate([np.linspace(0, 1, 10_001), np.logspace(-10, -0.31, 2_000)])
    assert np.abs(symmetric_beta(u, alpha) - betaincinv(alpha, alpha, u)).max() < tolerance


def test_closed_forms():
    u = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(symmetric_beta(u, 1.0), u)
    # Beta(1/2, 1/2) is the arcsine law.
    np.testing.assert_allclose(symmetric_beta(u, 0.5), np.sin(np.pi * u / 2) ** 2, atol=4e-8)


def test_mirrored_numbers_and_order():
    u = (np.random.default_rng(0).integers(0, 2**32, 5000) + 0.5) * 2.0**-32
    drawn = symmetric_beta(u, 0.3)
    np.testing.assert_allclose(symmetric_beta(1 - u, 0.3), 1 - drawn, rtol=0, atol=1e-15)
    assert (np.diff(drawn[np.argsort(u)]) >= 0).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_distribution():
    drawn = symmetric_beta(np.random.default_rng(1).random(20_000), 0.6)
    assert stats.kstest(drawn, "beta", args=(0.6, 0.6)).pvalue > 0.001
