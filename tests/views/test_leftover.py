import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.views import Batch
from ccrop_pipeline.views.streaming import whole_batches


def images(numbers: list[int]) -> Batch:
    """Images in two groups of views; each third is unreadable."""
    values = torch.tensor(numbers, dtype=torch.int64)
    views = tuple(
        (values % 256).to(torch.uint8).view(1, -1, 1, 1, 1).expand(count, -1, side, side, 3)
        .contiguous().permute(0, 1, 4, 2, 3)
        for count, side in ((2, 4), (3, 2))
    )  # fmt: skip
    return Batch(views, values, values * 2, values % 3 != 0)


def numbers_of(batch: Batch) -> list[int]:
    numbers = batch.key_hashes.tolist()
    assert len(batch) == len(numbers)
    assert batch.labels.tolist() == [number * 2 for number in numbers]
    assert batch.readable.tolist() == [number % 3 != 0 for number in numbers]
    for group, (count, side) in zip(batch.views, ((2, 4), (3, 2)), strict=True):
        assert group.shape == (count, len(numbers), 3, side, side)
        assert (group == torch.tensor(numbers).view(1, -1, 1, 1, 1)).all()
        for view in group:
            assert view.is_contiguous(memory_format=torch.channels_last)
    return numbers


@pytest.mark.slow
@given(
    st.integers(1, 6).flatmap(
        lambda size: st.tuples(st.just(size), st.lists(st.integers(-1, size - 1), max_size=12))
    )
)
def test_leftovers_are_joined_in_order_as_soon_as_they_fill_a_batch(case):
    """A size of 0 stands for a full batch that passes, one of -1 for one nobody wants."""
    size, sizes = case
    items, expected, waiting, number = [], [], [], 1
    for given_size in sizes:
        count = size if given_size == 0 else given_size
        if given_size == -1:
            items.append(None)
            expected.append(None)
            continue
        new = list(range(number, number + count))
        number += count
        items.append(images(new))
        if count == size:
            expected.append(new)
        else:
            waiting += new
            if len(waiting) >= size:
                expected.append(waiting[:size])
                waiting = waiting[size:]
    found = [batch and numbers_of(batch) for batch in whole_batches(items, size)]
    assert found == expected


def test_a_full_batch_is_handed_on_as_it_is():
    batch = images([0, 1, 2])
    (same,) = whole_batches([batch], 3)
    assert same is batch


@pytest.mark.parametrize(("first", "end"), [(0, 2), (1, None), (3, None)])
def test_rows_of_a_batch(first, end):
    part = images([3, 4, 6]).rows(slice(first, end))
    assert numbers_of(part) == [3, 4, 6][first:end]
