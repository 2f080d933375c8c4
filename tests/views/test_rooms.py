import torch

from ccrop_pipeline.views import Batch
from ccrop_pipeline.views import rooms as module


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
    free: list[torch.Tensor] = []
    views = module.room(free, torch.Size((2, 3))).fill_(1)
    where, part, array = views.data_ptr(), views.view(3, 2)[:1], views.numpy()[1:]
    del views
    assert module.room(free, torch.Size((2, 3))).fill_(2).data_ptr() != where
    assert (part == 1).all()
    assert (array == 1).all()
    del part
    assert len(free) == 1  # that of the second tensor
    del array
    assert len(free) == 2
    taken = [module.room(free, torch.Size((2, 3))) for _ in range(2)]
    assert where in [tensor.data_ptr() for tensor in taken]
    assert not free
    del taken
    module.room(free, torch.Size((3, 3)))
    assert [tensor.shape for tensor in free] == [(3, 3)]  # those of other shapes were let go


def test_views_that_a_gradient_needs_keep_their_memory():
    free: list[torch.Tensor] = []
    views = module.room(free, torch.Size((2, 3))).fill_(3)
    weight = torch.ones(3, requires_grad=True)
    loss = (views * weight).sum()
    del views
    module.room(free, torch.Size((2, 3))).fill_(7)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [6, 6, 6]
