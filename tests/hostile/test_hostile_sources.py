"""Whatever their bytes and names, images are read as another reader has them, or refused."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_sources import KINDS, picture, verdicts

from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images import open_source


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each_kind_are_taken_or_refused(kind):
    assert set(verdicts(kind, range(20))) <= {"taken", "refused"}


def test_an_image_whose_annotation_could_have_no_name_has_none(tmp_path):
    name = "x" * 251 + ".jpg"  # with `.json` at its end it is longer than a name can be
    (tmp_path / name).write_bytes(picture(0, "JPEG"))
    (tmp_path / "a.jpg").write_bytes(picture(1, "JPEG"))
    (tmp_path / "a.json").write_text(json.dumps({}))
    source = open_source(tmp_path)
    samples = list(source.read(source.shards[0]))
    assert [sample.key for sample in samples] == ["a.jpg", name]
    assert [sample.annotation for sample in samples] == [b"{}", None]


@pytest.mark.parametrize("name", ["key", "__key__", "label", "fine_label", "image"])
def test_a_table_with_a_column_twice_is_refused(name, tmp_path):
    image, other = pa.array([b"x"]), pa.array([1])
    columns = [image, image if name == "image" else other, image if name == "image" else other]
    pq.write_table(pa.table(columns, names=["image", name, name]), tmp_path / "t.parquet")
    source = open_source(tmp_path)
    with pytest.raises(SourceError, match=f"t.parquet has several columns `{name}`"):
        list(source.read("t"))


def test_a_folder_too_deep_to_be_listed_is_named_by_its_beginning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(60):  # more than a path can name, so from within
        Path("d" * 100).mkdir()
        os.chdir("d" * 100)
    with pytest.raises(SourceError, match="cannot be listed") as caught:
        open_source(tmp_path)
    assert len(str(caught.value)) < 1_000
