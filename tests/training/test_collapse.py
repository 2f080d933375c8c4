"""The rank of embeddings, against singular values that NumPy finds and closed forms."""

import math

import numpy as np
import pytest
import torch

from ccrop_pipeline.training.collapse import NewestRows, rankme


def effective_rank(rows):
    """Equation 1 of RankMe, directly."""
    singular = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    return math.exp(-sum(each * math.log(each) for each in p))


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (50, 50)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0, 5.0])
def test_rankme_is_that_of_a_singular_value_decomposition(shape, decay):
    generator = torch.Generator().manual_seed(1)
    scales = torch.arange(1, shape[1] + 1) ** -decay
    rows = torch.randn(shape, generator=generator) * scales + 0.3
    assert rankme(rows) == pytest.approx(effective_rank(rows), rel=1e-5)
    assert rankme(1e6 * rows) == pytest.approx(rankme(rows), rel=1e-5)


def test_rankme_of_what_is_known_in_closed_form():
    generator = torch.Generator().manual_seed(2)
    orthonormal = torch.linalg.qr(torch.randn(64, 16, generator=generator)).Q
    assert rankme(orthonormal) == pytest.approx(16, rel=1e-4)
    assert rankme(orthonormal.T) == pytest.approx(16, rel=1e-4)
    point = torch.randn(1, 16, generator=generator)
    assert rankme(torch.rand(64, 1, generator=generator) * point) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(64, 16)) == pytest.approx(1, abs=1e-3)
    # Two directions, one with three times the singular value of the other.
    two = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert rankme(two) == pytest.approx(4 / 27**0.25, rel=1e-5)
    assert math.isnan(rankme(torch.tensor([[1.0, math.inf]])))


def test_the_newest_rows_are_the_last_of_all_that_were_given():
    batches = torch.arange(5 * 700 * 3, dtype=torch.float32).reshape(5, 700, 3)
    rows, halves = NewestRows(), [NewestRows(0.5), NewestRows(0.5)]
    for batch in batches:
        rows.add(batch)
        for half, part in zip(halves, batch.chunk(2), strict=True):
            half.add(part)
    assert rows.all().tolist() == batches[-2:].flatten(0, 1).tolist()
    both = torch.cat([half.all() for half in halves])
    assert sorted(both.tolist()) == rows.all().tolist()


def test_wide_rows_are_fewer_and_copies():
    wide = torch.zeros(512, 65536)
    rows = NewestRows()
    rows.add(wide)
    wide += 1
    assert rows.all().shape == (256, 65536)
    assert rows.all().sum() == 0
