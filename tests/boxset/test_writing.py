"""Writing, resuming and opening: what a person is told, and what a kill leaves behind."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from raw_boxset import RawSet, make_header, text_of
from table_strategies import PROVENANCE, assert_same, make_table

from ccrop_pipeline.boxset import (
    BoxSet,
    BoxTable,
    Provenance,
    SourceInfo,
    convert,
    library_versions,
    shard_is_complete,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import CcropError

ROOT = Path(__file__).parents[2]
OTHER = Provenance(None, None, SourceInfo("tar", "ef"), rule="centre")
FORMS = pytest.mark.parametrize("form", ["parquet", "webdataset"])


@FORMS
def test_a_shard_is_complete_once_written(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "new/boxes"
    assert not shard_is_complete(folder, "s", PROVENANCE, form=form)
    write_shard(folder, "s", make_table(["k"]), PROVENANCE, form=form)
    assert shard_is_complete(folder, "s", PROVENANCE, form=form)
    with pytest.raises(CcropError, match=r"B013(.|\n)*choose another folder"):
        shard_is_complete(folder, "s", OTHER, form=form)


@FORMS
def test_a_damaged_shard_is_not_taken_for_complete(form: str, tmp_path: Path) -> None:
    write_shard(tmp_path, "s", make_table(["k"]), PROVENANCE, form=form)
    (path,) = (tmp_path / "data").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CcropError, match="B01"):
        shard_is_complete(tmp_path, "s", PROVENANCE, form=form)


@FORMS
def test_nothing_is_overwritten(form: str, tmp_path: Path) -> None:
    write_shard(tmp_path, "s", make_table(["k"], 1), PROVENANCE, form=form)
    write_shard(tmp_path, "s", make_table(["k"], 1), PROVENANCE, form=form)
    with pytest.raises(CcropError, match="already there with other content"):
        write_shard(tmp_path, "s", make_table(["k"], 2), PROVENANCE, form=form)
    write_manifest(tmp_path, ["s"], PROVENANCE, form=form)
    write_manifest(tmp_path, ["s"], PROVENANCE, form=form)
    assert_same(BoxSet.open(tmp_path).read("s"), make_table(["k"], 1))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3  # and the card


def test_rows_that_break_rules_are_not_written(tmp_path: Path) -> None:
    table = make_table(["a", "b\n", "\ud800"])
    table.boxes[0, 2] = np.nan
    with pytest.raises(CcropError, match=r"B017 s.parquet row 1(.|\n)*B017(.|\n)*B020 .* row 0"):
        write_shard(tmp_path / "boxes", "s", table, PROVENANCE)
    assert not (tmp_path / "boxes").exists()


def test_a_long_list_of_problems_is_cut_with_its_number(tmp_path: Path) -> None:
    table = make_table([f"k{i}" for i in range(30)])
    table.boxes[:] = -1
    with pytest.raises(CcropError, match="and 25 more"):
        write_shard(tmp_path, "s", table, PROVENANCE)


@pytest.mark.parametrize("name", ["", ".a", "a/b", "..", "a\0"])
def test_shard_names_are_plain_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        write_shard(tmp_path, name, make_table(["k"]), PROVENANCE)


def test_the_manifest_needs_all_shards_and_names_what_to_do(tmp_path: Path) -> None:
    write_shard(tmp_path, "s-0", make_table(["a"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"lacks 1 of 2 .*s-1.parquet.*same command"):
        write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE)
    write_shard(tmp_path, "s-1", make_table(["b"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"B010 s-1.parquet"):
        write_manifest(tmp_path, ["s-0"], PROVENANCE)
    with pytest.raises(CcropError, match="given twice"):
        write_manifest(tmp_path, ["s-0", "s-1", "s-1"], PROVENANCE)
    assert write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE).rows == 2


def test_a_key_in_two_shards_is_named_with_both_places(tmp_path: Path) -> None:
    write_shard(tmp_path, "s-0", make_table(["a", "b"]), PROVENANCE)
    write_shard(tmp_path, "s-1", make_table(["c", "b"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"B018 s-1.parquet row 1: .*'b'.*s-0.parquet"):
        write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE)
    assert not (tmp_path / "manifest.json").exists()


def test_shards_of_two_encoders_make_no_box_set(tmp_path: Path) -> None:
    write_shard(tmp_path, "s-0", make_table(["a"]), PROVENANCE)
    write_shard(tmp_path, "s-1", make_table(["b"]), OTHER)
    with pytest.raises(CcropError, match=r"B013 s-1.parquet"):
        write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE)


def test_shards_of_two_library_versions_do(tmp_path: Path) -> None:
    newer = Provenance(
        PROVENANCE.encoder, PROVENANCE.localizer, PROVENANCE.source, libraries={"torch": "9"}
    )
    write_shard(tmp_path, "s-0", make_table(["a"]), PROVENANCE)
    write_shard(tmp_path, "s-1", make_table(["b"]), newer)
    write_manifest(tmp_path, ["s-0", "s-1"], newer)
    assert BoxSet.open(tmp_path).manifest.rows == 2


def test_a_source_tree_that_is_not_installed_writes_boxes_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata.Distribution, "from_name", _only_numpy)
    assert library_versions("numpy", "torch") == {"numpy": np.__version__}


def _only_numpy(name: str) -> metadata.Distribution:
    if name != "numpy":
        raise metadata.PackageNotFoundError(name)
    return next(iter(metadata.distributions(name="numpy")))


def test_heatmaps_are_in_all_shards_or_in_none(tmp_path: Path) -> None:
    write_shard(tmp_path, "s-0", make_table(["a"]), PROVENANCE)
    write_shard(tmp_path, "s-1", make_table(["b"], heatmaps=False), PROVENANCE)
    with pytest.raises(CcropError, match=r"B024 s-1.parquet"):
        write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE)


def test_open_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CcropError, match="no folder"):
        BoxSet.open(tmp_path / "boxes")
    (tmp_path / "boxes").mkdir()
    with pytest.raises(CcropError, match="not a box set"):
        BoxSet.open(tmp_path / "boxes")
    write_shard(tmp_path / "boxes", "s", make_table(["a"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"not complete.*same command"):
        BoxSet.open(tmp_path / "boxes")
    write_manifest(tmp_path / "boxes", ["s"], PROVENANCE)
    boxes = BoxSet.open(tmp_path / "boxes")
    with pytest.raises(CcropError, match="no shard 'x'"):
        boxes.read("x")
    shutil.move(tmp_path / "boxes/data/s.parquet", tmp_path)
    with pytest.raises(CcropError, match=r"B007 data/s.parquet(.|\n)*copy it again"):
        BoxSet.open(tmp_path / "boxes")


def test_open_refuses_other_versions(tmp_path: Path) -> None:
    raw = RawSet()
    raw.header = make_header(version=2)
    raw.write(tmp_path / "boxes")
    with pytest.raises(CcropError, match="reads ccrop-boxes 1"):
        BoxSet.open(tmp_path / "boxes")


@FORMS
def test_a_shard_of_other_boxes_is_refused_when_it_is_read(form: str, tmp_path: Path) -> None:
    raw = RawSet(form)
    raw.entries["a-1"] = raw.entries_of(text_of(make_header(rule="other")))
    raw.write(tmp_path / "boxes")
    boxes = BoxSet.open(tmp_path / "boxes")
    assert boxes.read("a-0").keys == ["one", "two"]
    for use in (lambda: boxes.read("a-1"), lambda: list(boxes.tables()), boxes.lookup):
        with pytest.raises(CcropError, match=r"B013 a-1(.|\n)*compute these boxes again"):
            use()


@FORMS
def test_opening_and_reading_one_shard_leave_the_others_alone(form: str, tmp_path: Path) -> None:
    raw = RawSet(form)
    raw.edit_folder = lambda folder: [
        path.write_bytes(b"?" * path.stat().st_size) for path in folder.rglob("a-1.*")
    ]
    raw.write(tmp_path / "boxes")
    boxes = BoxSet.open(tmp_path / "boxes")
    assert boxes.read("a-0").keys == ["one", "two"]
    with pytest.raises(CcropError, match="B007 data/a-1") as caught:
        boxes.read("a-1")
    assert str(caught.value).count("B0") == 1


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_open_notices_a_shard_that_is_missing_or_of_another_size(
    change: Callable[[Path], Any], tmp_path: Path
) -> None:
    raw = RawSet()
    raw.edit_folder = lambda folder: change(folder / "data/a-1.parquet")
    raw.write(tmp_path / "boxes")
    with pytest.raises(CcropError, match=r"B007 data/a-1\.parquet"):
        BoxSet.open(tmp_path / "boxes")


@FORMS
def test_the_fingerprint_is_the_sha256_of_the_text_that_is_stored(
    form: str, tmp_path: Path
) -> None:
    """By plain readers alone; the same lines are in the example of pyarrow."""
    write_shard(tmp_path, "s", make_table(["k"]), PROVENANCE, form=form)
    write_manifest(tmp_path, ["s"], PROVENANCE, form=form)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    (entry,) = manifest["shards"]
    if form == "parquet":
        text = pq.read_metadata(tmp_path / entry["file"]).metadata[b"ccrop"]
    else:
        with tarfile.open(tmp_path / entry["file"]) as tar:
            text = tar.pax_headers["ccrop"].encode()
    assert hashlib.sha256(text).hexdigest() == manifest["fingerprint"]
    assert text.decode() == manifest["provenance"]
    header = json.loads(text)
    # Written independently, from the document.
    assert header == make_header(
        **{name: header[name] for name in ("encoder", "localizer")},
        **{name: header[name] for name in ("source", "rule")},
    )
    assert manifest["libraries"] == PROVENANCE.libraries


def later(raw: RawSet) -> None:
    """A box set as a later version or another program may write it."""
    raw.header = make_header(made_with={"precision": "bf16"})
    raw.header["localizer"]["threshold"] = 0
    raw.header["encoder"] |= {"tokens": [1, 2.50]}
    for row in (row for rows in raw.shards.values() for row in rows):
        row["score"] = 0.5


@FORMS
def test_fields_of_others_are_ignored_and_their_text_is_kept(form: str, tmp_path: Path) -> None:
    raw = RawSet(form)
    later(raw)
    raw.edit_manifest = lambda m: m.update(licence="CC0")
    raw.write(tmp_path / "boxes")
    boxes = BoxSet.open(tmp_path / "boxes")
    provenance = boxes.manifest.provenance
    assert provenance.text == text_of(raw.header)
    assert provenance.localizer.threshold == 0
    assert provenance.to_json()["made_with"] == {"precision": "bf16"}
    assert boxes.read("a-0").keys == ["one", "two"]
    assert shard_is_complete(tmp_path / "boxes", "a-0", provenance, form=form)
    other = "webdataset" if form == "parquet" else "parquet"
    copied = convert(tmp_path / "boxes", tmp_path / "copy", form=other)
    assert copied.provenance == provenance
    assert validate(tmp_path / "copy") == []


def test_boxes_whose_text_alone_differs_are_not_taken_for_complete(tmp_path: Path) -> None:
    RawSet().write(tmp_path / "boxes")
    other = BoxSet.open(tmp_path / "boxes").manifest.provenance
    ours = Provenance(other.encoder, other.localizer, other.source)
    assert ours.differences(other) == ["the same values in another text, as of another program"]
    with pytest.raises(CcropError, match="another text"):
        shard_is_complete(tmp_path / "boxes", "a-0", ours)


def test_fingerprint_ignores_libraries_and_nothing_else() -> None:
    base, (e, lo, s) = OTHER.fingerprint, (None, None, SourceInfo("tar", "ef"))
    assert Provenance(e, lo, s, "centre", {"torch": "1"}).fingerprint == base
    assert base == hashlib.sha256(OTHER.text.encode()).hexdigest()
    assert Provenance(e, lo, s, "shuffled").fingerprint != base
    assert Provenance(e, lo, SourceInfo("tar", "e0"), "centre").fingerprint != base
    assert Provenance(PROVENANCE.encoder, PROVENANCE.localizer, s, "centre").fingerprint != base


def test_provenance_must_say_where_boxes_come_from() -> None:
    with pytest.raises(ValueError, match="rule"):
        Provenance(None, None, SourceInfo("tar", "ef"))
    with pytest.raises(ValueError, match="together"):
        Provenance(PROVENANCE.encoder, None, SourceInfo("tar", "ef"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", np.zeros((1, 4))),
        ("boxes", np.zeros(4, np.float32)),
        ("sizes", np.zeros((1, 2), np.int64)),
        ("orientation", np.zeros(1, np.int64)),
        ("status", np.array([3], np.uint8)),
        ("image_hash", np.zeros(1, np.int64)),
        ("heatmaps", np.zeros((1, 2, 2), np.float32)),
        ("heatmaps", np.zeros((2, 2, 2), np.float16)),
        ("heatmaps", np.zeros((1, 0, 2), np.float16)),
        ("heatmaps", np.zeros((1, 4), np.float16)),
    ],
)
def test_tables_refuse_other_shapes_and_dtypes(name: str, value: Any) -> None:
    right = vars(make_table(["a"]))
    BoxTable(**right)
    with pytest.raises(ValueError, match=name):
        BoxTable(**(right | {name: value}))


WRITER = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from table_strategies import PROVENANCE, make_table
from ccrop_pipeline.boxset import write_shard
print("go", flush=True)
for i in range(100_000):
    write_shard(Path({folder!r}), f"s-{{i}}", make_table([f"k{{i}}-{{j}}" for j in range(500)], i),
                PROVENANCE, form={form!r})
"""


@pytest.mark.slow
@FORMS
def test_after_a_kill_every_visible_shard_is_whole(form: str, tmp_path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path), form=form)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == b"go\n"
        deadline = time.monotonic() + 20
        while len(list(tmp_path.glob("data/s-*"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
    assert not list(tmp_path.glob("data/.*"))
    (tmp_path / ".s-7.parquet.0123.tmp").write_bytes(b"half")  # left over in any case
    names = sorted(path.name.split(".")[0] for path in tmp_path.glob("data/s-*"))
    assert len(names) >= 5
    assert all(shard_is_complete(tmp_path, name, PROVENANCE, form=form) for name in names)
    write_manifest(tmp_path, names, PROVENANCE, form=form)
    assert validate(tmp_path) == []
    for name, table in BoxSet.open(tmp_path).tables():
        number = int(name[2:])
        assert_same(table, make_table([f"k{number}-{j}" for j in range(500)], number))
