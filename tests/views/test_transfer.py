"""What travels to a GPU with each batch; fake tensors show it without one."""

import multiprocessing
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_views import make_source
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ccrop_pipeline.localize import to_device
from ccrop_pipeline.views import AugmentSettings, ViewCutter, ViewGroup
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.by_position import MapLoader, ResidentLoader, load_images

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GROUPS = (ViewGroup(2, 16, augment=AugmentSettings(blur_p=0.5, solarize_p=0.5)),)


def in_a_process(run: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a process of its own.

    A fake GPU stays for the life of a process: autograd then starts a thread for it, and from then
    on refuses to work in forked processes, in which other tests train.
    """

    @wraps(run)
    def alone(**given: Any) -> None:
        process = multiprocessing.get_context("fork").Process(target=run, kwargs=given)
        process.start()
        process.join(120)
        assert process.exitcode == 0

    return alone


class Copies(TorchDispatchMode):
    """Whether each copy to the GPU lets the host go on."""

    def __init__(self):
        super().__init__()
        self.asynchronous = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function == torch.ops.aten._to_copy.default and kwargs.get("device") == GPU:
            self.asynchronous.append(kwargs.get("non_blocking", False))
        return function(*args, **kwargs)


@pytest.fixture
def index(tmp_path):
    return make_source(tmp_path / "tars").index()


@pytest.fixture
def pinned(monkeypatch):
    """The shapes that memory was pinned for."""
    shapes = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: shapes.append(tuple(self.shape)) or self
    )
    return shapes


@in_a_process
def test_resident_images_are_cut_on_a_gpu_without_waiting_for_it(index, pinned):
    images = load_images(index, (32, 32), CPU, threads=1)
    loader = ResidentLoader(images, ViewCutter(GROUPS), batch_size=4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images.pixels = torch.empty(images.pixels.shape, dtype=torch.uint8, device=GPU)
        with Copies() as copies:
            (views,) = next(loader.epoch(0)).views
    assert views.device == GPU
    assert pinned == [(4,), (2, 4, 4)]  # which images, and the windows of two views
    assert copies.asynchronous == [True, True]


@in_a_process
def test_views_are_augmented_on_a_gpu_without_waiting_for_it(index, pinned):
    batch = next(MapLoader(index, ViewCutter(GROUPS), batch_size=4).epoch(0))
    made = SimpleNamespace(views=batch.views, hashes=batch.hashes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        augment = Augment(GROUPS, 0, GPU)
        with Copies() as copies:
            (views,) = augment(made, 0)
    assert views.device == GPU
    assert len(pinned) == len(copies.asynchronous) == 3  # crops, strengths, rows
    assert pinned[0] == (2, 4, 3, 16, 16)
    assert all(copies.asynchronous)


def _backward() -> None:
    torch.ones(2, requires_grad=True).sum().backward()


def test_no_fake_gpu_is_left_to_other_tests():
    _backward()
    in_a_process(_backward)()


def test_on_a_cpu_nothing_is_copied(pinned):
    values = torch.arange(3)
    assert to_device(values, CPU) is values
    assert pinned == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_cuts_the_same_views(index):
    views = []
    for device in (CPU, GPU):
        loader = ResidentLoader(
            load_images(index, (32, 32), device, 1), ViewCutter(GROUPS), batch_size=4
        )
        torch.cuda.set_sync_debug_mode("error")
        try:
            views.append(next(loader.epoch(0)).views[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(views[0], views[1].cpu())
