import pytest

from ccrop_pipeline.compute.pipeline import refuse_repeated
from ccrop_pipeline.errors import CcropError


@pytest.mark.parametrize("rows", [1, 5, 16, 17, 1000])
def test_shards_that_count_from_zero_are_found_at_the_second(rows):
    seen: dict[str, str] = {}
    keys = [f"{i:06d}" for i in range(rows)]
    refuse_repeated("train-0", keys, seen)
    with pytest.raises(CcropError, match="'000000' is in the shards 'train-0' and 'train-1'"):
        refuse_repeated("train-1", keys, seen)


def test_other_keys_pass_and_take_no_memory():
    seen: dict[str, str] = {}
    for shard in range(200):
        refuse_repeated(f"s{shard}", [f"s{shard}/{i}" for i in range(300)], seen)
    refuse_repeated("none", [], seen)
    assert len(seen) <= 200 * 17
