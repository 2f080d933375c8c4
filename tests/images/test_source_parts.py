import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from made_sources import DATA, needs_data, picture

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import (
    ParquetSource,
    RemoteTarSource,
    Scenes,
    TarSource,
    image_hash,
    open_source,
    pack,
    true_boxes,
)
from ccrop_pipeline.images.decode import extension_by_content, extension_by_name
from ccrop_pipeline.images.keys import (
    IMAGES_PER_SHARD,
    Keys,
    numbered_shards,
    refuse_duplicates,
)
from ccrop_pipeline.images.source import part_of


def test_image_hash_is_xxh3_of_64_bits():
    # XXH3_64bits with seed 0 of nothing and of "abc"; pins the algorithm that box sets rely on.
    assert image_hash(b"") == 0x2D06800538D394C2
    assert image_hash(b"abc") == 0x78AF5F94892F3950
    assert image_hash(b"a" * 1000) == xxhash.xxh3_64(b"a" * 1000).intdigest()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_keys_behave_like_a_list(names):
    keys = Keys(names)
    assert list(keys) == names
    assert [keys[i] for i in range(len(keys))] == names
    assert keys[1:3] == names[1:3]
    assert list(pickle.loads(pickle.dumps(keys))) == names
    assert (keys.first_duplicate() is None) == (len(set(names)) == len(names))


def test_keys_take_negative_positions_and_refuse_others():
    keys = Keys(["a", "b"])
    assert keys[-1] == "b"
    with pytest.raises(IndexError):
        keys[2]


def test_duplicates_are_named_with_both_places():
    keys = Keys(["a", "b", "c", "b"])
    with pytest.raises(CcropError, match=r"'b'.*image 1 of first and image 1 of second"):
        refuse_duplicates(keys, np.array([0, 0, 1, 1], np.int32), ["first", "second"], "rename.")


@given(st.integers(0, 5 * IMAGES_PER_SHARD))
def test_shards_cut_every_image_exactly_once(count):
    shards = numbered_shards("x", count)
    rows = list(shards.values())
    assert list(shards) == [f"x-{i:06d}" for i in range(len(rows))]
    assert sum(len(r) for r in rows) == count
    assert all(0 < len(r) <= IMAGES_PER_SHARD for r in rows)
    assert [r.start for r in rows] == [i * IMAGES_PER_SHARD for i in range(len(rows))]


def test_an_unknown_shard_is_the_programmers_error():
    with pytest.raises(ValueError, match="no shard 'y-000000'; there are 1: x-000000"):
        part_of({"x-000000": range(3)}, "y-000000")


class Counted(tuple):
    """A tuple that counts how often somebody goes through it."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("kind", ["tar", "remote", "parquet"])
def test_shards_are_named_once_however_many_are_read(kind, tmp_path):
    shards = 30
    pack(Scenes(shards, size=16), tmp_path / "tars", max_images=1)
    paths = Counted(sorted((tmp_path / "tars").glob("*.tar")))
    if kind == "remote":
        paths = Counted(f"file://{path}" for path in paths)
    if kind == "parquet":
        table = pa.table({"image": [picture(0)]})
        paths = Counted(tmp_path / f"{i}.parquet" for i in range(shards))
        for path in paths:
            pq.write_table(table, path)
    made = {"tar": TarSource, "remote": RemoteTarSource, "parquet": ParquetSource}[kind]
    source, before = made("here", paths), paths.times
    assert sum(len(list(source.read(shard))) for shard in source.shards) == shards
    assert paths.times - before <= 2
    assert source.shards is source.shards


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_pillows_own_files_are_recognised(form):
    extension = extension_by_content(picture(0, form))
    assert extension == {"JPEG": "jpg", "TIFF": "tif"}.get(form, form.lower())
    assert extension_by_name(f"a.b/c.d.{form}") is not None


def test_other_bytes_and_names_are_no_images():
    assert extension_by_content(b"") is None
    assert extension_by_content(b"RIFF\0\0\0\0WAVE") is None
    assert extension_by_name("a.jpg/notes.txt") is None
    assert extension_by_name("jpg") is None


edges = st.tuples(st.integers(0, 99), st.integers(1, 100)).filter(lambda p: p[0] < p[1])


@given(st.lists(st.tuples(edges, edges), max_size=5))
def test_true_boxes_reorder_height_and_width(pairs):
    rows = [[y[0] / 100, x[0] / 100, y[1] / 100, x[1] / 100] for y, x in pairs]
    boxes = true_boxes(json.dumps({"boxes": rows}).encode())
    assert boxes.shape == (len(pairs), 4)
    assert boxes.dtype == np.float64
    for (y, x), box in zip(pairs, boxes, strict=True):
        assert box.tolist() == [x[0] / 100, y[0] / 100, x[1] / 100, y[1] / 100]


@pytest.mark.parametrize(
    "text",
    [
        b"no json",
        b"\xff\xfe\xfa",
        b"[1, 2]",
        b'{"labels": []}',
        b'{"boxes": 3}',
        b'{"boxes": [[0, 0, 1]]}',
        b'{"boxes": [[0, 0, 1, "x"]]}',
        b'{"boxes": [[0.5, 0, 0.2, 1]]}',
        b'{"boxes": [[0, 0, 1, 1.5]]}',
        b'{"boxes": [[0, 0, NaN, 1]]}',
    ],
)
def test_annotations_without_proper_boxes_are_refused(text):
    with pytest.raises(CcropError, match="box"):
        true_boxes(text)


@pytest.mark.parametrize("nothing", [None, b""])
def test_without_an_annotation_there_is_no_box(nothing):
    assert true_boxes(nothing).shape == (0, 4)


@needs_data
def test_all_real_annotations_are_read():
    source = open_source(DATA / "objects-webdataset")
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    assert len(samples) == 419
    for sample in samples:
        rows = json.loads(sample.annotation)["boxes"]
        assert true_boxes(sample.annotation)[:, [1, 0, 3, 2]].tolist() == rows
    raccoons = sum(json.loads(s.annotation)["source"] == "raccoon" for s in samples)
    assert raccoons == 165
