"""Box sets at addresses, and several writers at once: whole files, and the first one stays."""

import json
import multiprocessing
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from table_strategies import PROVENANCE, assert_same, make_table

from ccrop_pipeline.base.addresses import UnreachableError
from ccrop_pipeline.base.files import hidden_name, written_aside
from ccrop_pipeline.boxset import (
    BoxSet,
    Provenance,
    SourceInfo,
    convert,
    missing_shards,
    shard_is_complete,
    strangers,
    validate,
    write_manifest,
    write_shard,
    write_shard_once,
)
from ccrop_pipeline.errors import CcropError

OTHER = Provenance(None, None, SourceInfo("tar", "ef"), rule="centre")
ROOT = Path(__file__).parents[2]


class Shelf(MemoryFileSystem):
    """A file system of which nothing is known, with a log of what became visible."""

    protocol = "shelf"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    moved: ClassVar[list] = []

    def mv(self, path1, path2, **kwargs):
        self.moved.append((path1, path2))
        super().mv(path1, path2, **kwargs)


fsspec.register_implementation("shelf", Shelf)


@pytest.fixture(params=["memory", "shelf", "file"])
def address(request, tmp_path):
    files = fsspec.filesystem(request.param)
    if request.param == "file":
        return f"file://{tmp_path}/boxes"
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return f"{request.param}://bucket/boxes"


def made(folder, form="parquet"):
    for number, keys in enumerate((["a", "b"], ["c"], [])):
        table = make_table(keys, number, heatmaps=bool(keys))
        write_shard(folder, f"s-{number}", table, PROVENANCE, form=form)
    return write_manifest(folder, ["s-0", "s-1", "s-2"], PROVENANCE, form=form)


def contents(folder):
    files, path = fsspec.core.url_to_fs(str(folder))
    return {name.rpartition("/")[2]: files.cat_file(name) for name in files.find(path)}


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_box_set_elsewhere_has_the_bytes_of_a_local_one(address, form, tmp_path):
    assert made(address, form) == made(tmp_path / "local", form)
    assert contents(address) == contents(tmp_path / "local")
    assert validate(address) == []
    there, here = BoxSet.open(address), BoxSet.open(tmp_path / "local")
    assert there.manifest == here.manifest
    for (name, one), (other, two) in zip(there.tables(), here.tables(), strict=True):
        assert name == other
        assert_same(one, two)


def test_boxes_elsewhere_are_found_by_key_through_a_local_cache(address, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made(address)
    before = contents(address)
    boxes = BoxSet.open(address).find(["c", "a"])
    assert np.array_equal(boxes[0], make_table(["c"], 1).boxes[0])
    assert np.array_equal(boxes[1], make_table(["a", "b"], 0).boxes[0])
    assert contents(address) == before
    caches = list(tmp_path.rglob("*.lookup"))
    sha256 = BoxSet.open(address).manifest.sha256
    assert [cache.name for cache in caches] == [f"{sha256}.4.lookup"]


def test_conversion_goes_from_address_to_address(address, tmp_path):
    made(address)
    convert(address, f"{address}-tar", form="webdataset")
    convert(f"{address}-tar", tmp_path / "back", form="parquet")
    assert contents(tmp_path / "back") == contents(address)


def test_shards_elsewhere_are_complete_missing_or_refused(address):
    assert missing_shards(address, ["s", "t"]) == ["s", "t"]
    assert not shard_is_complete(address, "s", PROVENANCE)
    write_shard(address, "s", make_table(["k"]), PROVENANCE)
    assert missing_shards(address, ["s", "t"]) == ["t"]
    assert missing_shards(address, ["s"], form="webdataset") == ["s"]
    assert shard_is_complete(address, "s", PROVENANCE)
    with pytest.raises(
        CcropError, match=r"boxes holds boxes that were made in another way \(s.parquet, B013\)"
    ):
        shard_is_complete(address, "s", OTHER)


def test_nothing_elsewhere_is_overwritten(address):
    write_shard(address, "s", make_table(["k"], 1), PROVENANCE)
    before = contents(address)
    write_shard(address, "s", make_table(["k"], 1), PROVENANCE)
    with pytest.raises(CcropError, match=r"s\.parquet is already there with other content"):
        write_shard(address, "s", make_table(["k"], 2), PROVENANCE)
    assert contents(address) == before


def test_what_is_not_there_is_told_with_its_address(address):
    with pytest.raises(CcropError, match=r"there is no folder .*boxes"):
        BoxSet.open(address)
    write_shard(address, "s", make_table(["k"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"boxes is not complete: it has 1 shard "):
        BoxSet.open(address)
    with pytest.raises(CcropError, match=r"boxes lacks 1 of 2 shards, such as t.parquet"):
        write_manifest(address, ["s", "t"], PROVENANCE)
    assert [problem.rule for problem in validate(address)] == ["B001"]


@pytest.mark.parametrize("use", [validate, BoxSet.open])
def test_a_server_that_gives_no_answer_is_no_fault_of_a_box_set(use):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/boxes"
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:\d+/boxes.* cannot be used"):
        use(closed)


def test_damage_elsewhere_is_found(address):
    made(address)
    files, path = fsspec.core.url_to_fs(f"{address}/data/s-1.parquet")
    content = files.cat_file(path)
    files.pipe_file(path, content[:-1])
    with pytest.raises(CcropError, match=r"B007 data/s-1\.parquet"):
        BoxSet.open(address)
    files.pipe_file(path, b"?" * len(content))
    assert {problem.rule for problem in validate(address)} == {"B007", "B011"}
    files.rm_file(path)
    assert {problem.rule for problem in validate(address)} == {"B007"}


def test_an_unknown_file_system_sees_whole_files_only_by_moving_them():
    Shelf.store.clear()
    Shelf.moved.clear()
    made("shelf://bucket/boxes")
    names = [name.rpartition("/")[2] for _, name in Shelf.moved]
    assert names == ["s-0.parquet", "s-1.parquet", "s-2.parquet", "README.md", "manifest.json"]
    assert all("bucket/boxes/." in name for name, _ in Shelf.moved)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense://bucket/boxes", "protocol that fsspec knows"),
        ("gdrive://bucket/boxes", "needs another package"),
    ],
)
def test_addresses_without_a_file_system_are_refused(address, message):
    with pytest.raises(CcropError, match=message):
        write_shard(address, "s", make_table(["k"]), PROVENANCE)


def test_what_is_no_part_of_a_box_set_is_named(tmp_path):
    made(tmp_path)
    (tmp_path / hidden_name("manifest.json")).touch()
    (tmp_path / "data" / hidden_name("s-0.parquet")).touch()
    (tmp_path / ".cache").mkdir()  # of the client of a hub
    assert strangers(tmp_path) == []
    foreign = [".a.tmp", ".hidden", "data/b.tmp", "data/notes.txt", "notes.tmp", "notes.txt"]
    for name in foreign:
        (tmp_path / name).touch()
    assert strangers(tmp_path) == foreign


def test_errors_of_a_file_system_are_told_in_words(monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError("quota")

    monkeypatch.setattr(Shelf, "pipe_file", fails)
    with pytest.raises(
        CcropError, match=r"shelf://b/data/s.parquet cannot be used \(RuntimeError: quo"
    ):
        write_shard("shelf://b", "s", make_table(["k"]), PROVENANCE)


@pytest.mark.slow
def test_fsspec_is_imported_for_addresses_only(tmp_path):
    made(tmp_path)
    code = (
        "import sys\nfrom ccrop_pipeline.boxset import BoxSet, validate\n"
        f"folder = {str(tmp_path)!r}\nBoxSet.open(folder).lookup()\nassert validate(folder) == []\n"
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_of_two_different_results_the_first_stays(address):
    assert write_shard_once(address, "s", make_table(["k"], 1), PROVENANCE)
    assert write_shard_once(address, "s", make_table(["k"], 1), PROVENANCE)
    assert not write_shard_once(address, "s", make_table(["k"], 2), PROVENANCE)
    write_manifest(address, ["s"], PROVENANCE)
    assert_same(BoxSet.open(address).read("s"), make_table(["k"], 1))
    with pytest.raises(CcropError, match="B013"):
        write_shard_once(address, "s", make_table(["k"], 3), OTHER)


def test_a_file_that_appears_while_another_is_written_is_not_replaced(tmp_path):
    target = tmp_path / "file"
    late = written_aside(target)
    late.__enter__().write_text("late")
    with written_aside(target) as early:
        early.write_text("early")
    with pytest.raises(CcropError, match="already there"):
        late.__exit__(None, None, None)
    assert (target.read_text(), list(tmp_path.iterdir())) == ("early", [target])


def _races(barrier, target, number, results):
    for turn in range(50):
        barrier.wait()
        try:
            with written_aside(target / f"{turn}") as aside:
                aside.write_text(str(number))
            results.put((turn, number))
        except CcropError:
            pass


def test_of_writers_at_the_same_time_exactly_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.SimpleQueue()
    racers = [
        context.Process(target=_races, args=(barrier, tmp_path, n, results)) for n in range(4)
    ]
    for racer in racers:
        racer.start()
    winners = [results.get() for _ in range(50)]
    for racer in racers:
        racer.join()
    assert results.empty()
    assert sorted(turn for turn, _ in winners) == list(range(50))
    assert all((tmp_path / str(turn)).read_text() == str(winner) for turn, winner in winners)


def test_a_file_system_without_links_gets_its_files_by_renaming(tmp_path, monkeypatch):
    def refused(self, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert write_shard_once(tmp_path, "s", make_table(["k"], 1), PROVENANCE)
    assert not write_shard_once(tmp_path, "s", make_table(["k"], 2), PROVENANCE)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["s.parquet"]


def test_a_manifest_that_is_there_is_taken_without_reading_the_shards(tmp_path):
    written = made(tmp_path)
    shard = tmp_path / "data/s-0.parquet"
    shard.write_bytes(b"?" * shard.stat().st_size)
    assert write_manifest(tmp_path, ["s-0", "s-1", "s-2"], PROVENANCE) == written
    assert {problem.rule for problem in validate(tmp_path)} == {"B007", "B011"}


def test_a_manifest_is_not_taken_beside_a_shard_that_was_cut(tmp_path):
    made(tmp_path)
    shard = tmp_path / "data/s-0.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CcropError, match=r"B011 s-0\.parquet"):
        write_manifest(tmp_path, ["s-0", "s-1", "s-2"], PROVENANCE)


def test_a_manifest_that_says_something_else_is_not_taken(tmp_path):
    made(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CcropError, match=r"manifest\.json is already there"):
        write_manifest(tmp_path, ["s-1", "s-0", "s-2"], PROVENANCE)
    with pytest.raises(CcropError, match="B010"):
        write_manifest(tmp_path, ["s-0", "s-1"], PROVENANCE)
    with pytest.raises(CcropError, match="B013"):
        write_manifest(tmp_path, ["s-0", "s-1", "s-2"], OTHER)
    assert contents(tmp_path) == before


def test_finishers_with_other_libraries_agree_on_the_first_manifest(tmp_path, monkeypatch):
    newer = Provenance(
        PROVENANCE.encoder, PROVENANCE.localizer, PROVENANCE.source, libraries={"torch": "9"}
    )
    first = made(tmp_path)
    assert write_manifest(tmp_path, ["s-0", "s-1", "s-2"], newer) == first
    # As a finisher who did not yet see a manifest when it began.
    hidden = (tmp_path / "manifest.json").rename(tmp_path / ".hidden")
    real = Path.write_text

    def write_text(self, text, **kwargs):
        hidden.replace(tmp_path / "manifest.json")
        return real(self, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    assert write_manifest(tmp_path, ["s-0", "s-1", "s-2"], newer) == first
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["libraries"] == PROVENANCE.libraries


def test_keys_of_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("ccrop_pipeline.boxset.inspection.hash", lambda _key: 1, raising=False)
    made(tmp_path)
    assert validate(tmp_path) == []
    write_shard(tmp_path / "twice", "s-0", make_table(["a", "b"]), PROVENANCE)
    write_shard(tmp_path / "twice", "s-1", make_table(["c", "b"]), PROVENANCE)
    with pytest.raises(CcropError, match=r"^B018 s-1.parquet row 1: .*'b'.*s-0.parquet") as error:
        write_manifest(tmp_path / "twice", ["s-0", "s-1"], PROVENANCE)
    assert str(error.value).count("B018") == 1
