import pytest

from ccrop_pipeline.compute.pipeline import Repeats
from ccrop_pipeline.errors import CcropError


@pytest.mark.parametrize("rows", [1, 5, 16, 17, 1000])
def test_shards_that_count_from_zero_are_found_at_the_second(rows):
    repeats = Repeats()
    keys = [f"{i:06d}" for i in range(rows)]
    repeats.check("train-0", keys)
    with pytest.raises(CcropError, match="'000000' stands in the shards 'train-0' and 'train-1'"):
        repeats.check("train-1", keys)


def test_other_keys_pass_and_take_no_memory():
    repeats = Repeats()
    for shard in range(200):
        repeats.check(f"s{shard}", [f"s{shard}/{i}" for i in range(300)])
    repeats.check("none", [])
    assert len(repeats._shard_of) <= 200 * 17
