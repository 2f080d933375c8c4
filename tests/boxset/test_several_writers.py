"""Several machines at one address: each sees what the others wrote, and the first one stays."""

from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from table_strategies import PROVENANCE, make_table

from ccrop_pipeline.boxset import (
    BoxSet,
    missing_shards,
    shard_is_complete,
    write_manifest,
    write_shard,
    write_shard_once,
)
from ccrop_pipeline.errors import CcropError


class Remembering(MemoryFileSystem):
    """Keeps what it has listed, as s3fs does, until it writes there itself or is told not to."""

    protocol = "remembering"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    listed: ClassVar[dict] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("remembering://"))

    def ls(self, path, detail=True, **kwargs):
        folder = self._strip_protocol(path)
        if folder not in self.listed:
            try:
                self.listed[folder] = super().ls(folder, detail=True)
            except FileNotFoundError:
                self.listed[folder] = []
        if not self.listed[folder]:
            raise FileNotFoundError(folder)
        found = self.listed[folder]
        return found if detail else sorted(entry["name"] for entry in found)

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        for entry in self.ls(self._parent(path)):
            if entry["name"] == path:
                return entry
        raise FileNotFoundError(path)

    def invalidate_cache(self, path=None):
        self.listed.clear() if path is None else self.listed.pop(self._strip_protocol(path), None)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value, mode, **kwargs)
        self.invalidate_cache(self._parent(path))

    def mv(self, path1, path2, **kwargs):
        self.store[self._strip_protocol(path2)] = self.store.pop(self._strip_protocol(path1))
        self.invalidate_cache(self._parent(path2))


class Raced(MemoryFileSystem):
    """A store on which another machine writes a file just after it was asked for it."""

    protocol = ("raced", "memory")
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    rival: ClassVar[dict] = {}

    def exists(self, path, **kwargs):
        there = super().exists(path, **kwargs)
        content = self.rival.pop(path.rpartition("/")[2], None)
        if content is not None:
            super().pipe_file(path, content)
        return there


fsspec.register_implementation("remembering", Remembering)
fsspec.register_implementation("raced", Raced)


@pytest.fixture
def remembering():
    Remembering.store.clear()
    Remembering.listed.clear()
    write_shard("remembering://bucket/boxes", "first", make_table(["a"]), PROVENANCE)
    return "remembering://bucket/boxes"


@pytest.fixture
def raced():
    Raced.store.clear()
    Raced.rival.clear()
    return "raced://bucket/boxes"


def shard_bytes(folder, seed):
    """A shard `s` as another machine writes it."""
    write_shard(folder, "s", make_table(["k"], seed), PROVENANCE)
    return (folder / "data/s.parquet").read_bytes()


def elsewhere(address, content):
    """Writes the shard `s` as another machine does: this one's listing knows nothing of it."""
    files, folder = fsspec.core.url_to_fs(address)
    MemoryFileSystem.pipe_file(files, f"{folder}/data/s.parquet", content)


def test_a_shard_that_another_machine_wrote_is_no_longer_missing(remembering, tmp_path):
    assert missing_shards(remembering, ["first", "s"]) == ["s"]
    elsewhere(remembering, shard_bytes(tmp_path, 1))
    assert missing_shards(remembering, ["first", "s"]) == []


def test_a_shard_that_another_machine_wrote_is_not_computed_again(remembering, tmp_path):
    assert not shard_is_complete(remembering, "s", PROVENANCE)
    elsewhere(remembering, shard_bytes(tmp_path, 1))
    assert shard_is_complete(remembering, "s", PROVENANCE)


def test_a_shard_that_another_machine_wrote_is_not_replaced(remembering, tmp_path):
    assert missing_shards(remembering, ["first", "s"]) == ["s"]
    theirs = shard_bytes(tmp_path, 1)
    elsewhere(remembering, theirs)
    with pytest.raises(CcropError, match=r"s\.parquet is already there with other content"):
        write_shard(remembering, "s", make_table(["k"], 2), PROVENANCE)
    files, folder = fsspec.core.url_to_fs(remembering)
    assert files.cat_file(f"{folder}/data/s.parquet") == theirs


def test_of_two_machines_that_put_a_shard_at_once_the_first_stays(raced, tmp_path):
    theirs = shard_bytes(tmp_path, 1)
    Raced.rival["s.parquet"] = theirs
    with pytest.raises(CcropError, match=r"s\.parquet is already there with other content"):
        write_shard(raced, "s", make_table(["k"], 2), PROVENANCE)
    assert not Raced.rival
    files, folder = fsspec.core.url_to_fs(raced)
    assert files.cat_file(f"{folder}/data/s.parquet") == theirs
    files.rm_file(f"{folder}/data/s.parquet")
    Raced.rival["s.parquet"] = theirs
    assert not write_shard_once(raced, "s", make_table(["k"], 2), PROVENANCE)
    assert files.cat_file(f"{folder}/data/s.parquet") == theirs


def test_a_manifest_of_other_shards_that_appears_meanwhile_is_not_taken(raced, tmp_path):
    """All but the shards agrees, as when a machine still sees those of a set that was deleted."""
    write_shard(tmp_path, "s", make_table(["k"], 1), PROVENANCE)
    theirs = write_manifest(tmp_path, ["s"], PROVENANCE)
    write_shard(raced, "s", make_table(["k"], 2), PROVENANCE)
    Raced.rival["manifest.json"] = theirs.to_text().encode()
    with pytest.raises(CcropError, match=r"manifest\.json is already there with other content"):
        write_manifest(raced, ["s"], PROVENANCE)
    assert not Raced.rival
    # Of the same shards it is taken, whatever wrote it.
    files, folder = fsspec.core.url_to_fs(raced)
    files.rm(folder, recursive=True)
    write_shard(raced, "s", make_table(["k"], 1), PROVENANCE)
    Raced.rival["manifest.json"] = theirs.to_text().encode()
    assert write_manifest(raced, ["s"], PROVENANCE) == theirs == BoxSet.open(raced).manifest
