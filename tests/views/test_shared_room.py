import torch

from ccrop_pipeline.views import Batch
from ccrop_pipeline.views import shared_room as module


def handed_over(shape: torch.Size) -> tuple[Batch, int]:
    views = module.shared_room(shape)
    where = views.data_ptr()
    views.fill_(1)
    nothing = torch.zeros(shape[1])
    return module.received(Batch((views,), nothing, nothing, nothing)), where


def test_room_is_used_again_once_nothing_uses_its_views(monkeypatch):
    monkeypatch.setattr(module, "_rooms", [])
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
    monkeypatch.setattr(module, "_rooms", [])
    kept, _ = handed_over(torch.Size((1, 2, 3, 4, 4)))
    for count in (3, 4, 5):
        handed_over(torch.Size((1, count, 3, 4, 4)))
    assert sorted(map(len, module._rooms)) == [97, 241]
    assert (kept.views[0] == 1).all()
