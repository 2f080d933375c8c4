"""Files appear whole and synced, in the place of others or never."""

import hashlib
import os

import pytest

from ccrop_pipeline.base.files import sha256_of, written_aside
from ccrop_pipeline.errors import CcropError


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_on_the_disk_before_it_appears_and_its_name_after(tmp_path, monkeypatch, replace):
    """By the order of system calls: what no crash can be made to show in a test."""
    target, synced = tmp_path / "file", []
    fsync = os.fsync

    def recorded(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, target.exists(), found.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with written_aside(target, replace=replace) as aside:
        aside.write_bytes(b"content")
        inode = aside.stat().st_ino
    (file, *before, size), (folder, *after, _) = synced
    assert (file, before, size) == (inode, [False], 7)
    assert (folder, after) == (tmp_path.stat().st_ino, [True])


def test_a_file_is_replaced_only_where_it_may_be(tmp_path):
    target = tmp_path / "file"
    for content in (b"first", b"first"):
        with written_aside(target) as aside:
            aside.write_bytes(content)
    with pytest.raises(CcropError, match="already there"), written_aside(target) as aside:
        aside.write_bytes(b"second")
    assert target.read_bytes() == b"first"
    with written_aside(target, replace=True) as aside:
        aside.write_bytes(b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"second"]


@pytest.mark.parametrize("replace", [False, True])
def test_writing_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, replace):
    target = tmp_path / "file"
    target.write_bytes(b"first")

    def write():
        with written_aside(target, replace=replace) as aside:
            aside.write_bytes(b"sec")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_hash_is_that_of_all_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
