"""Embeddings on disk: the same as others compute, in the same files however the work was done."""

import io
import json
import re
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import ccrop_pipeline as ccrop
from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.base.files import hidden_name
from ccrop_pipeline.errors import CcropError, SettingError, SourceError
from ccrop_pipeline.export import embed
from ccrop_pipeline.images import Sample, Scenes, image_hash, open_source, pack
from ccrop_pipeline.localize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    Localizer,
    build_backbone,
)
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.probes import embed as probed
from ccrop_pipeline.probes import labelled

DOCUMENT = (Path(__file__).parents[2] / "docs/export.md").read_text()


def encoder(seed=0, size=32):
    torch.manual_seed(seed)
    backbone = build_backbone("small")
    return Encoder(backbone, backbone.layer, size, name="small", epoch=3)


@pytest.fixture
def source(tmp_path):
    """Three shards of ten images each."""
    pack(Scenes(30, size=48), tmp_path / "tars", max_images=10)
    return open_source(tmp_path / "tars")


def rows(out):
    files = sorted((out / "embeddings").iterdir())
    return pa.concat_tables([pq.read_table(file) for file in files])


def matrix(table):
    return np.stack(table["embedding"].to_numpy())


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def seen_by_pillow(samples, size):
    """Normalised squares, with nothing but Pillow and NumPy."""
    squares = [
        np.asarray(
            Image.open(io.BytesIO(sample.image)).convert("RGB").resize((size, size), Image.BILINEAR)
        )
        for sample in samples
    ]
    scaled = (np.stack(squares) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()


def test_rows_are_the_images_with_the_features_of_the_probes(source, tmp_path):
    found = embed(encoder(), source, tmp_path / "out", batch_size=10)
    table = rows(tmp_path / "out")
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    assert table["key"].to_pylist() == [sample.key for sample in samples]
    assert table["label"].to_pylist() == [sample.label for sample in samples]
    assert table["image_hash"].to_pylist() == [image_hash(sample.image) for sample in samples]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 128)
    expected = probed(labelled(source.index(), ""), encoder())
    assert np.abs(matrix(table) - expected.values.numpy()).max() < 1e-6  # in batches of others
    assert (found.images, found.unreadable, found.made_by["channels"]) == (30, (), 128)


def test_in_equal_batches_they_are_those_of_the_probes_to_the_bit(tmp_path):
    pack(Scenes(30, size=48), tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    embed(encoder(), source, tmp_path / "out", batch_size=256)
    expected = probed(labelled(source.index(), ""), encoder())
    assert np.array_equal(matrix(rows(tmp_path / "out")), expected.values.numpy())


def of_torchvision(module, images):
    return torch.nn.Sequential(*list(module.children())[:-1], torch.nn.Flatten())(images)


def of_convnext(module, images):
    return module.forward_features(images).mean((2, 3))


def of_vit(module, images):
    return module.forward_features(images)[:, module.num_prefix_tokens :].mean(1)


@pytest.mark.parametrize(
    ("model", "layer", "own"),
    [
        ("torchvision:resnet18", None, of_torchvision),
        ("timm:test_convnext", None, of_convnext),
        ("timm:test_vit", "norm", of_vit),
    ],
)
def test_they_are_what_the_library_of_the_model_gives(tmp_path, model, layer, own):
    samples = list(Scenes(6, size=48).read("train-000000"))
    pack(samples, tmp_path / "tars")
    opened = open_encoder(model, weights="random", layer=layer, input_size=64)
    found = replaced_scaling(opened)
    embed(found, tmp_path / "tars", tmp_path / "out")
    with torch.no_grad():
        expected = own(found.module.eval(), seen_by_pillow(samples, 64)).numpy()
    assert np.abs(matrix(rows(tmp_path / "out")) - expected).max() <= 1e-5 * np.abs(expected).max()


def replaced_scaling(opened):
    """The encoder with ImageNet's mean and standard deviation, whatever its library says."""
    own = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "layout": opened.layout}
    return Encoder(opened.module, opened.layer, 64, prefix_tokens=opened.prefix_tokens, **own)


class Stopped(Observer):
    """Interrupts after so many shards."""

    def __init__(self, after=99):
        self.left, self.plan, self.halved = after, None, []

    def begun(self, shards, kept):
        self.plan = (shards, kept)

    def shard_written(self, shard, images, unreadable=0):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_what_was_stopped_is_gone_on_with_and_ends_with_the_same_bytes(source, tmp_path):
    embed(encoder(), source, tmp_path / "whole")
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        embed(encoder(), source, out, observer=Stopped(after=1))
    assert [*contents(out)] == ["data-000000.parquet"]
    seen = Stopped()
    assert embed(encoder(), source, out, observer=seen).images == 30
    assert seen.plan == (2, 1)
    expected = contents(tmp_path / "whole")
    assert {name: contents(out)[name] for name in expected} == expected
    again, left = Stopped(), out / hidden_name("embeddings.json")
    left.write_bytes(b"of a kill once the record was there")
    assert embed(encoder(), source, out, observer=again).images == 30
    assert again.plan == (0, 3)
    assert not left.exists()


def test_portions_in_any_order_make_the_folder_of_one_process(source, tmp_path):
    embed(encoder(), source, tmp_path / "one")
    for rank in (1, 2, 0):
        done = embed(encoder(), source, tmp_path / "three", ranks=Ranks(rank, 3))
        assert (done is None) == (rank != 0)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("other", "complete", "said"),
    [
        ({"model": encoder(1)}, True, "encoder.weights_sha256: "),
        ({"model": encoder(size=48)}, False, "input_size: 32 -> 48"),
        ({"dtype": "float16"}, True, "dtype: float32 -> float16"),
        ({"source": Scenes(30, size=40)}, True, "source.kind: tar -> scenes"),
        ({"source": Scenes(30, size=40)}, False, "of other images, such as"),
    ],
)
def test_another_model_is_refused_until_it_may_overwrite(source, tmp_path, other, complete, said):
    asked = {"model": encoder(), "source": source, "out": tmp_path / "out"}
    embed(**asked, ranks=Ranks(0, 1 if complete else 2))
    before = contents(tmp_path / "out")
    with pytest.raises(CcropError, match=r"holds embeddings (that|of other)") as refused:
        embed(**asked | other)
    assert said in str(refused.value)
    assert contents(tmp_path / "out") == before
    embed(**asked | other, overwrite=True)
    embed(**asked | other | {"out": tmp_path / "fresh"})
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"tars", "out", "fresh"}


def test_neither_overwrites_what_is_none_of_its_own(source, tmp_path):
    localizer = Localizer(encoder(), "sum", ccrop.BoxRule(0.1))
    ccrop.compute_boxes(source, localizer, tmp_path / "boxes")
    embed(encoder(), source, tmp_path / "out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    before = contents(tmp_path)
    for folder in ("boxes", "notes"):
        with pytest.raises(CcropError, match="not empty and holds no embeddings"):
            embed(encoder(), source, tmp_path / folder)
        with pytest.raises(CcropError, match="holds more than embeddings"):
            embed(encoder(), source, tmp_path / folder, overwrite=True)
    for overwrite in (False, True):
        with pytest.raises(CcropError, match=r"holds no box set|more than a box set"):
            ccrop.compute_boxes(source, localizer, tmp_path / "out", overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_damaged_shard_is_named_and_one_that_went_is_written_again(source, tmp_path):
    embed(encoder(), source, tmp_path / "out")
    before = contents(tmp_path / "out")
    file = tmp_path / "out/embeddings" / "data-000001.parquet"
    file.write_bytes(before[file.name][:-7])
    with pytest.raises(CcropError, match=r"data-000001\.parquet is no file of embeddings"):
        embed(encoder(), source, tmp_path / "out")
    (tmp_path / "out/embeddings.json").unlink()
    pq.write_table(pa.table({"key": ["a"]}), file)
    with pytest.raises(CcropError, match="is no file of embeddings"):
        embed(encoder(), source, tmp_path / "out")
    file.unlink()
    embed(encoder(), source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("complete", [True, False])
def test_images_that_changed_within_the_same_size_are_refused(tmp_path, complete):
    """So that neither names nor sizes tell; the tar is written anew, with other pixels."""
    samples = [
        sample._replace(image=bitmap(48, seed))
        for seed, sample in enumerate(Scenes(20, size=48).read("train-000000"))
    ]
    for number, sample in enumerate(samples):
        (tmp_path / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / str(number % 2) / f"{number:02}.bmp").write_bytes(sample.image)
    source = open_source(tmp_path / "photos")
    embed(encoder(), source, tmp_path / "out")
    if not complete:
        (tmp_path / "out/embeddings.json").unlink()
    assert embed(encoder(), open_source(tmp_path / "photos"), tmp_path / "out").images == 20
    before = contents(tmp_path / "out")
    (tmp_path / "photos/1/13.bmp").write_bytes(bitmap(48, seed=99))
    again = open_source(tmp_path / "photos")
    assert again.fingerprint() == source.fingerprint()
    with pytest.raises(SourceError, match=r"'1/13.bmp' is not the one whose .*Set `overwrite`"):
        embed(encoder(), again, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert embed(encoder(), again, tmp_path / "out", overwrite=True).images == 20


def bitmap(side, seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def test_a_file_where_the_folder_goes_is_told_and_kept(source, tmp_path):
    (tmp_path / "out").write_text("mine")
    localizer = Localizer(encoder(), "sum", ccrop.BoxRule(0.1))
    for overwrite in (False, True):
        with pytest.raises(CcropError, match="out is a file, and a folder is needed there"):
            embed(encoder(), source, tmp_path / "out", overwrite=overwrite)
        with pytest.raises(CcropError, match="out is a file, and a folder is needed there"):
            ccrop.compute_boxes(source, localizer, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


def test_embeddings_of_other_images_are_told_in_words(source, tmp_path):
    embed(encoder(), source, tmp_path / "out")
    pack(Scenes(30, size=48, seed=7), tmp_path / "other", prefix="data", max_images=10)
    told = r"source\.fingerprint: \w{12}\.{3} -> \w{12}\.{3} \(other images, or changed ones\)"
    with pytest.raises(CcropError, match=told):
        embed(encoder(), open_source(tmp_path / "other"), tmp_path / "out")


def test_images_that_cannot_be_decoded_have_no_row_and_are_named(tmp_path):
    samples = list(Scenes(5, size=48).read("train-000000"))
    samples[1] = samples[1]._replace(image=b"no image", label=None)
    samples[3] = samples[3]._replace(label=None)
    pack(samples, tmp_path / "tars")
    found = embed(encoder(), tmp_path / "tars", tmp_path / "out", batch_size=2)
    table = rows(tmp_path / "out")
    kept = [samples[number] for number in (0, 2, 3, 4)]
    assert table["key"].to_pylist() == [sample.key for sample in kept]
    assert table["label"].to_pylist() == [sample.label for sample in kept]
    assert (found.images, found.unreadable) == (4, (samples[1].key,))
    record = json.loads((tmp_path / "out/embeddings.json").read_text())
    assert record["shards"][0]["unreadable"] == [samples[1].key]
    pack([samples[1]], tmp_path / "none")
    assert embed(encoder(), tmp_path / "none", tmp_path / "empty").images == 0
    assert rows(tmp_path / "empty").schema.equals(table.schema)


class Repeating:
    """A source whose shards have the keys that are given."""

    kind, location, classes, random_access = "scenes", "made", (), False

    def __init__(self, **keys):
        self.keys, self.shards = keys, tuple(keys)
        self.image = next(Scenes(1, size=32).read("train-000000")).image

    def read(self, shard):
        return iter([Sample(key, self.image, None) for key in self.keys[shard]])

    def fingerprint(self):
        return "0" * 64


@pytest.mark.parametrize(
    ("keys", "ranks", "said"),
    [
        ({"s": ["a", "b", "b"]}, 1, "the key 'b' is twice in the shard 's'"),
        ({"s": ["a", "b"], "t": ["a"]}, 1, "the key 'a' is in the shards 's' and 't'"),
        ({"s": ["a", "b"], "t": ["c", "b"]}, 2, "the key 'b' is twice in the shards 's' and 't'"),
    ],
)
def test_a_key_of_two_images_is_refused(tmp_path, keys, ranks, said):
    asked = (encoder(), Repeating(**keys), tmp_path / "out")
    for rank in range(ranks - 1):
        embed(*asked, ranks=Ranks(rank, ranks))
    with pytest.raises(SourceError, match=said):
        embed(*asked, ranks=Ranks(ranks - 1, ranks))
    assert not (tmp_path / "out/embeddings.json").exists()


def test_half_precision_is_rounded_and_nothing_else(source, tmp_path):
    for dtype in ("float32", "float16"):
        embed(encoder(), source, tmp_path / dtype, dtype=dtype)
    whole, half = (matrix(rows(tmp_path / dtype)) for dtype in ("float32", "float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, whole.astype(np.float16))
    with pytest.raises(SettingError, match="dtype is 'int8'"):
        embed(encoder(), source, tmp_path / "int8", dtype="int8")


@pytest.mark.parametrize(
    ("factor", "dtype", "said"),
    [
        (1e6, "float16", "reach .*, and float16 ends at 65504. Set `dtype` to float32"),
        (float("nan"), "float32", "infinite or no numbers. Check the weights"),
        (1e38, "float32", "infinite or no numbers"),
    ],
)
def test_what_is_no_number_is_never_written(source, tmp_path, factor, dtype, said):
    ours = encoder()
    with torch.no_grad():
        ours.module.layer4[-2].weight.mul_(factor)
    with pytest.raises(CcropError, match=rf"the features of 'train-\d+' .*{said}"):
        embed(ours, source, tmp_path / "out", dtype=dtype)
    assert not contents(tmp_path / "out")


def test_a_folder_may_be_at_an_address(source, tmp_path):
    found = embed(encoder(), source, "memory://embeddings/first")
    assert (found.folder, found.images) == ("memory://embeddings/first", 30)
    embed(encoder(), source, tmp_path / "out")
    frame = pd.read_parquet("memory://embeddings/first/embeddings/data-000002.parquet")
    assert frame["key"].tolist() == rows(tmp_path / "out")["key"].to_pylist()[20:]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pandas_polars_duckdb_and_datasets_open_them(source, tmp_path, dtype):
    out = tmp_path / "out"
    embed(encoder(), source, out, dtype=dtype)
    table = rows(out)
    keys, values = table["key"].to_pylist(), matrix(table)
    data = str(out / "embeddings")
    found = {
        "pandas": pd.read_parquet(data)[["key", "embedding"]].itertuples(index=False),
        "polars": pl.read_parquet(data).select("key", "embedding").iter_rows(),
        "duckdb": duckdb.sql(f"select key, embedding from '{data}/*.parquet'").fetchall(),
        "datasets": (
            (row["key"], row["embedding"])
            for row in datasets.load_dataset(
                str(out), split="train", cache_dir=str(tmp_path / "cache")
            )
        ),
    }
    for program, pairs in found.items():
        read = {key: np.array(value) for key, value in pairs}
        assert list(read) == keys, program
        assert np.array_equal(np.stack([*read.values()]), values), program


def test_the_programs_of_the_document_join_boxes_and_embeddings(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embed(encoder(), source, "embeddings/first")
    ccrop.compute_boxes(source, Localizer(encoder(), "sum", ccrop.BoxRule(0.1)), "boxes/first")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    (block,) = [block for block in blocks if "embeddings/first" in block]
    names = {}
    exec(block, names)
    boxes = ccrop.BoxSet.open("boxes/first")
    assert (len(names["joined"]), len(names["large"])) == (30, 5)
    for key, x_min in names["joined"][["key", "x_min"]].itertuples(index=False):
        assert boxes[key].box[0] == pytest.approx(x_min)
    assert names["features"].shape == (30, 128)
