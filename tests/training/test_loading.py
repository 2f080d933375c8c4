import pytest
import torch

from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer
from ccrop_pipeline.training.inputs import open_loader

SETTINGS = ["image_size=32", "eval_size=0", "boxes.refresh_at=[0.5]", "epochs=2", "batch_size=8"]


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(20, size=32), folder, max_images=7)
    return folder


def opened(source, **machine):
    return open_loader(Inputs(source), load_recipe("demo", SETTINGS), Machine(**machine))


def test_images_are_loaded_as_the_machine_allows(tars):
    source = open_source(tars)
    enough = 20 * 3 * 32 * 32 / 1e9
    assert "20 images are decoded in the memory of cpu" in opened(source, resident_gb=enough).note
    beyond = opened(source, resident_gb=enough - 1e-9)
    assert "read by position, in the calling process" in beyond.note
    assert "in 2 processes" in opened(source, resident_gb=0, workers=2).note
    assert opened(source).images == len(opened(source).index) == 20


def test_a_source_without_random_access_is_streamed_and_counted(tars):
    loader = opened(open_source(f"file://{tars}/data-{{000000..000002}}.tar"))
    assert (loader.images, loader.index, len(loader)) == (20, None, 2)
    assert "20 images are read shard by shard" in loader.note


@pytest.mark.parametrize("kind", ["resident", "by position", "streamed"])
def test_processes_share_every_epoch_without_an_image_in_common(tars, kind):
    at = f"file://{tars}/data-{{000000..000002}}.tar" if kind == "streamed" else tars
    machine = Machine(resident_gb=1.0 if kind == "resident" else 0)
    recipe = load_recipe("demo", SETTINGS)
    loaders = [
        open_loader(Inputs(open_source(at)), recipe, machine, Ranks(rank, 2)) for rank in range(2)
    ]
    # Tars of 7, 7 and 6 images: a process that has one of them is sure of 6, a batch of 4.
    assert len({len(loader) for loader in loaders}) == 1
    for epoch in range(3):
        batches = [list(loader.crops(epoch)) for loader in loaders]
        seen = [batch.key_hashes.tolist() for own in batches for batch in own]
        assert {len(keys) for keys in seen} == {4}
        assert len({key for keys in seen for key in keys}) == 4 * len(seen)
        if kind != "streamed":
            whole = open_loader(Inputs(open_source(at)), recipe, machine)
            together = zip(*batches, whole.crops(epoch), strict=True)
            for first, second, both in together:
                assert torch.equal(
                    torch.cat([first.key_hashes, second.key_hashes]), both.key_hashes
                )
                for one, two, all_ in zip(first.views, second.views, both.views, strict=True):
                    assert torch.equal(torch.cat([one, two], 1), all_)


def test_less_than_a_batch_is_refused(tars):
    for source in (open_source(tars), open_source(f"pipe:cat {tars}/data-000000.tar")):
        settings = [*SETTINGS, "batch_size=21"]
        with pytest.raises(CcropError, match="less than one batch of 21"):
            open_loader(Inputs(source), load_recipe("demo", settings), Machine())


@pytest.mark.parametrize("kind", ["resident", "by position", "streamed"])
def test_a_process_with_less_than_two_images_of_a_part_is_refused(tars, kind):
    at = f"file://{tars}/data-{{000000..000002}}.tar" if kind == "streamed" else tars
    inputs, machine = Inputs(open_source(at)), Machine(resident_gb=1.0 * (kind == "resident"))
    recipe = load_recipe("demo", [*SETTINGS, "accumulate=4"])
    assert len(open_loader(inputs, recipe, machine)) // 4 == 2  # steps of 8 of 20 images
    for processes, own, enough in ((2, 1, 16), (3, 0, 24)):
        told = (
            rf"batch_size is 8 and accumulate 4.*{processes} processes.* {own} image.*to {enough}"
        )
        for rank in range(processes):
            with pytest.raises(CcropError, match=told):
                open_loader(inputs, recipe, machine, Ranks(rank, processes))


def test_a_process_that_streams_less_than_a_step_is_refused(tars):
    inputs = Inputs(open_source(f"file://{tars}/data-{{000000..000002}}.tar"))
    # Of tars of 7, 7 and 6 images, one of two processes may have the last alone.
    accumulated = [*SETTINGS, "accumulate=2"]
    enough = load_recipe("demo", [*accumulated, "batch_size=12"])
    assert len(open_loader(inputs, enough, Machine(), Ranks(1, 2))) == 2  # one step
    recipe = load_recipe("demo", [*accumulated, "batch_size=16"])
    with pytest.raises(CcropError, match=r"has 1 of the 2 parts \(accumulate\) of one step"):
        open_loader(inputs, recipe, Machine(), Ranks(1, 2))
    recipe = load_recipe("demo", [*SETTINGS, "batch_size=16"])
    with pytest.raises(CcropError, match=r"one of 2 processes .* 6 images, less than its 8 of"):
        open_loader(inputs, recipe, Machine(), Ranks(1, 2))


def test_fewer_shards_than_processes_that_stream_are_called_so(tars):
    inputs = Inputs(open_source(f"file://{tars}/data-{{000000..000002}}.tar"))
    with pytest.raises(CcropError, match="3 shards, too few for 4 processes"):
        open_loader(inputs, load_recipe("demo", SETTINGS), Machine(), Ranks(0, 4))


@pytest.mark.slow
def test_a_streamed_run_trains_refreshes_and_is_repeatable(tars, tmp_path):
    source = open_source(f"pipe:cat {tars}/data-{{000000..000002}}.tar")
    weights = []
    for name in ("first", "second"):
        trainer = Trainer(
            Inputs(source), tmp_path / name, load_recipe("demo", SETTINGS), Machine(), Observer()
        )
        trainer.train()
        records = trainer.run.metrics()
        assert [record["epoch"] for record in records] == [1, 2]
        assert records[1]["boxes"] == "boxes/epoch-0001"
        assert not any("knn" in record for record in records)
        weights.append(torch.cat([w.flatten() for w in trainer.learner.method.parameters()]))
    assert torch.equal(*weights)


def test_how_images_are_loaded_is_told_to_the_observer(tars, tmp_path):
    class Listener(Observer):
        def loading(self, images, note):
            self.heard = images, note

    listener = Listener()
    recipe = load_recipe("demo", SETTINGS)
    Trainer(Inputs(open_source(tars)), tmp_path / "run", recipe, Machine(), listener)
    assert listener.heard[0] == 20
    assert "are decoded in the memory of cpu" in listener.heard[1]
