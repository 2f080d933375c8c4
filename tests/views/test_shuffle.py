from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.base import Ranks
from ccrop_pipeline.views.streaming import shards_of_rank, shuffled


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 5))
def test_a_buffer_gives_every_item_once_and_none_too_early(count, size, seed):
    given_out = list(shuffled(iter(range(count)), size, np.random.default_rng(seed)))
    assert sorted(given_out) == list(range(count))
    # At place p only p + size items have been seen.
    assert all(item < place + size for place, item in enumerate(given_out))
    if size == 1:
        assert given_out == list(range(count))


def test_a_buffer_reads_no_further_ahead_than_its_size():
    read = []
    items = (read.append(i) or i for i in range(100))
    out = shuffled(items, 10, np.random.default_rng(0))
    for place in range(20):
        next(out)
        assert len(read) == place + 11


def test_how_long_items_wait_in_a_buffer():
    """Each draw takes an item with a chance of 1/100: a geometric wait, 100 draws on average."""
    out = np.array(list(shuffled(iter(range(6000)), 100, np.random.default_rng(0))))
    waits = np.argsort(out)[100:5000] - np.arange(1, 4901)
    # The deviation of such a wait is 100 as well; five of those of the mean.
    assert abs(waits.mean() - 99) < 5 * 100 / np.sqrt(len(waits))
    assert len(set(waits.tolist())) > 100


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_ranks_share_out_all_shards(count, world_size, epoch):
    shards = [f"s-{i}" for i in range(count)]
    shares = [
        shards_of_rank(shards, 1, epoch, Ranks(rank, world_size)) for rank in range(world_size)
    ]
    assert sorted(chain(*shares)) == sorted(shards)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shards_are_shuffled_anew_by_each_epoch_and_seed():
    shards = [f"s-{i}" for i in range(20)]
    orders = [tuple(shards_of_rank(shards, *at)) for at in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0))]
    assert len(set(orders)) == 4
    assert orders[0] == orders[4]
