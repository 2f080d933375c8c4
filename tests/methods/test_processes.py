"""One process and two do the same with the same images."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from made_methods import made, made_views

from ccrop_pipeline.methods import METHODS

pytestmark = pytest.mark.slow

PROCESSES, IMAGES = 2, 12


def two_steps(name, dtype, rank=0, world=1):
    """Loss, gradients and state of the second of two steps, averaged over processes."""
    model = made(name).to(dtype)
    if world > 1:
        model.synchronise_batch_norm()
    share = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    views = [view[share].to(dtype) for view in made_views(name, IMAGES)]
    for step in range(2):
        torch.manual_seed(step)
        model.before_step(epoch=0, progress=step / 2)
        model.zero_grad()
        output = model(views)
        output.loss.backward()
    gradients = {key: w.grad for key, w in model.named_parameters() if w.grad is not None}
    loss = output.loss.detach()
    for value in [loss, *gradients.values()] if world > 1 else []:
        dist.all_reduce(value)
        value /= world
    buffers = {key: value for key, value in model.named_buffers() if value.is_floating_point()}
    return {"loss": loss, **gradients, **buffers}


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    results = {
        (name, dtype): two_steps(name, dtype, rank, PROCESSES)
        for name in METHODS
        for dtype in (torch.float32, torch.float64)
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def from_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=one_of_two, args=(r, folder)) for r in range(PROCESSES)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_the_loss_of_one(name, from_two):
    one = two_steps(name, torch.float32)["loss"].item()
    for two in from_two:
        assert two[name, torch.float32]["loss"].item() == pytest.approx(one, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_the_gradients_and_the_state_of_one(name, from_two):
    """In float64: features of an untrained encoder barely differ, and batch norm of their pooled
    values magnifies what float32 rounds to 1e-3 of a gradient."""
    one = two_steps(name, torch.float64)
    for two in from_two:
        assert two[name, torch.float64].keys() == one.keys()
        for key, value in two[name, torch.float64].items():
            torch.testing.assert_close(value, one[key], rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_all_processes_hold_the_same_state(name, from_two):
    one, two = (results[name, torch.float32] for results in from_two)
    assert all(torch.equal(one[key], two[key]) for key in one)
