import copy
import pickle
import sys
from collections.abc import Iterator
from threading import Thread

import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from ccrop_pipeline.views import Batch, ViewGroup, ViewLoader
from ccrop_pipeline.views import rooms as module
from ccrop_pipeline.views.augment import Augment


def handed_over(shape: torch.Size) -> tuple[Batch, int]:
    views = module.shared_room(shape)
    where = views.data_ptr()
    views.fill_(1)
    nothing = torch.zeros(shape[1])
    return module.received(Batch((views,), nothing, nothing, nothing)), where


def test_room_is_used_again_once_nothing_uses_its_views(monkeypatch):
    monkeypatch.setattr(module, "_shared", [])
    shape = torch.Size((2, 3, 3, 4, 4))
    first, where = handed_over(shape)
    assert first.views[0].shape == shape
    part = first.views[0][1, 0].permute(1, 2, 0)
    del first
    second, elsewhere = handed_over(shape)
    assert elsewhere != where  # a part of the first views is still in use
    second.views[0].fill_(2)
    assert (part == 1).all()
    del part
    assert module.shared_room(shape).data_ptr() == where
    del second


def test_free_room_of_another_size_is_let_go(monkeypatch):
    monkeypatch.setattr(module, "_shared", [])
    kept, _ = handed_over(torch.Size((1, 2, 3, 4, 4)))
    for count in (3, 4, 5):
        handed_over(torch.Size((1, count, 3, 4, 4)))
    assert sorted(map(len, module._shared)) == [97, 241]
    assert (kept.views[0] == 1).all()


def test_memory_of_views_comes_back_when_nothing_uses_them():
    rooms, shape = module.Rooms(), torch.Size((2, 3))
    views = rooms.room(shape).fill_(1)
    where, part, array = views.data_ptr(), views.view(3, 2)[:1], views.numpy()[1:]
    del views
    assert rooms.room(shape).fill_(2).data_ptr() != where
    assert (part == 1).all()
    assert (array == 1).all()
    del part
    assert len(rooms._free[shape]) == 1  # that of the second tensor
    del array
    assert len(rooms._free[shape]) == 2
    taken = [rooms.room(shape) for _ in range(2)]
    assert where in [tensor.data_ptr() for tensor in taken]
    assert not rooms._free[shape]
    del taken
    rooms.room(torch.Size((3, 3)))
    assert [*rooms._free] == [(3, 3)]  # those of other shapes were let go


def test_memory_of_views_stays_in_its_process():
    augment = Augment([ViewGroup(1, 8)], 0, "cpu")
    crops, nothing = torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4)
    batch = Batch((crops,), torch.arange(4), nothing, nothing)
    fresh = len(pickle.dumps(augment))
    augment(batch, 0)
    assert augment._rooms._free
    assert len(pickle.dumps(augment)) == fresh
    assert not copy.copy(augment._rooms)._free


def test_memory_of_views_is_given_to_one_thread_alone():
    rooms, wrong = module.Rooms(), []

    def use(number: int) -> None:
        for turn in range(500):
            shape = torch.Size((2, 3 + (number + turn) % 2))
            views = rooms.room(shape).fill_(number)
            if views.shape != shape or not (views == number).all():
                wrong.append(views)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


class _Wrapped(IterableDataset[int]):
    """A loader inside of a person's own loader process, and how much shared memory that holds."""

    def __init__(self, loader: ViewLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[int]:
        for _batch in self.loader:
            yield len(module._shared)


def test_loader_in_a_loader_process_of_another_keeps_no_views(tmp_path):
    for number in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    loader = ViewLoader(tmp_path, ViewGroup(1, 8), batch_size=2)
    assert {*DataLoader(_Wrapped(loader), batch_size=None, num_workers=1)} == {0}


def test_views_that_a_gradient_needs_keep_their_memory():
    rooms = module.Rooms()
    views = rooms.room(torch.Size((2, 3))).fill_(3)
    weight = torch.ones(3, requires_grad=True)
    loss = (views * weight).sum()
    del views
    rooms.room(torch.Size((2, 3))).fill_(7)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [6, 6, 6]
