import shutil

import pytest

from ccrop_pipeline.base import Observer
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source
from ccrop_pipeline.probes import KnnSettings, at_most, embed, knn_accuracy, labelled
from ccrop_pipeline.recipes import load_recipe as load
from ccrop_pipeline.training import (
    Inputs,
    Machine,
    Run,
    StartingWeights,
    Trainer,
    load_checkpoint,
)


def folder_of(scenes, folder, classes=None):
    """An image folder with a sub-folder for each class, or for some of them."""
    for sample in scenes.read(scenes.shards[0]):
        name = scenes.classes[sample.label]
        if classes is None or name in classes:
            path = folder / name / f"{sample.key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.image)
    return open_source(folder)


@pytest.fixture
def source(tmp_path):
    return folder_of(Scenes(96, size=32), tmp_path / "train")


SETTINGS = ["epochs=2", "batch_size=32", "eval_size=0", 'boxes.kind="none"', "probe.k=5"]


def trainer(source, test, folder, *settings, observer=None):
    recipe = load("demo", [*SETTINGS, "probe.every=1", *settings])
    inputs = Inputs(source, test_source=test)
    return Trainer(inputs, folder, recipe, Machine(), observer or Observer())


@pytest.mark.slow
def test_the_accuracy_is_that_of_the_newest_weights_on_the_images_that_were_chosen(
    source, tmp_path
):
    test = folder_of(Scenes(60, size=32, split="test"), tmp_path / "test")
    trainer(source, test, tmp_path / "run", "probe.max_images=40").train()
    record = Run(tmp_path / "run").metrics()[-1]
    encoder = load_checkpoint(tmp_path / "run").encoder()
    parts = [at_most(labelled(of.index(), ""), 40) for of in (source, test)]
    bank, queries = (embed(part, encoder) for part in parts)
    assert (record["knn_bank"], len(bank.labels), len(queries.labels)) == (40, 40, 40)
    assert (record["knn_queries"], record["knn_input_size"]) == (40, encoder.input_size)
    asked = queries.labels.tolist()
    assert record["knn_chance"] == max(asked.count(label) for label in asked) / 40
    assert record["knn"] == pytest.approx(knn_accuracy(bank, queries, KnnSettings(k=5)), abs=1e-5)


@pytest.mark.slow
def test_weights_that_are_given_are_probed_before_training(source, tmp_path):
    trainer(source, None, tmp_path / "first").train()
    (*_, given) = Run(tmp_path / "first").metrics()
    recipe = load("demo", [*SETTINGS, "probe.every=1"])
    inputs = Inputs(source, weights=StartingWeights(tmp_path / "first"))
    for _ in range(2):  # the second one has nothing left to do
        Trainer(inputs, tmp_path / "second", recipe, Machine()).train()
    trained = Run(tmp_path / "second").metrics()
    assert "knn_start" not in given
    assert [record["knn_start"] for record in trained] == [given["knn"]] * 2


@pytest.mark.parametrize(("k", "voted"), [(5, 5), (9, 9), (10, 9), (200, 9), ("auto", 1)])
def test_no_more_neighbours_are_recorded_than_could_vote(source, tmp_path, k, voted):
    listener, warnings = Observer(), []
    listener.warning = warnings.append
    one = ("epochs=1", "optimizer.lr_warmup_epochs=0", "probe.max_images=9", f"probe.k={k}")
    trainer(source, None, tmp_path / "run", *one, observer=listener).train()
    (record,) = Run(tmp_path / "run").metrics()
    assert (record["knn_k"], record["knn_bank"]) == (voted, 9)
    warning = f"probe.k is {k}, but only 9 images can answer"
    assert [note[: len(warning)] for note in warnings] == [warning] * (k in (10, 200))


def test_no_image_is_asked_about_itself_when_the_test_has_the_same_ones(source, tmp_path):
    once = trainer(source, None, tmp_path / "once")
    twice = trainer(source, open_source(tmp_path / "train"), tmp_path / "twice")
    for probe in (once._probe, twice._probe):
        assert not {*probe.bank.rows} & {*probe.queries.rows}
        assert len(probe.bank.rows) + len(probe.queries.rows) == 96


def test_a_test_with_other_classes_is_refused_before_anything_is_written(source, tmp_path):
    some = Scenes(60, size=32, split="test")
    test = folder_of(some, tmp_path / "test", sorted(some.classes)[1:])
    with pytest.raises(CcropError, match="label 0 is"):
        trainer(source, test, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_without_labels_is_refused_before_anything_is_written(source, tmp_path):
    (tmp_path / "test").mkdir()
    first = next(iter(Scenes(1, size=32).read("train-000000")))
    (tmp_path / "test" / "a.jpg").write_bytes(first.image)
    with pytest.raises(CcropError, match="has a label"):
        trainer(source, open_source(tmp_path / "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trainer(source, open_source(tmp_path / "test"), tmp_path / "run", "probe.every=0")


@pytest.mark.slow
def test_images_of_the_test_that_vanish_cost_the_accuracy_and_not_the_epoch(source, tmp_path):
    test = folder_of(Scenes(60, size=32, split="test"), tmp_path / "test")
    warnings = []

    class Vanishing(Observer):
        def warning(self, note):
            warnings.append(note)

        def epoch_done(self, record):
            if record["epoch"] == 1:
                shutil.rmtree(tmp_path / "test")

    trainer(source, test, tmp_path / "run", observer=Vanishing()).train()
    first, second = Run(tmp_path / "run").metrics()
    assert "knn" in first
    assert "knn" not in second
    assert load_checkpoint(tmp_path / "run").epoch == 2
    assert len(warnings) == 1
    assert "epoch 2 has no kNN accuracy" in warnings[0]
