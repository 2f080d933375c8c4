"""Files appear whole and synced, in the place of others or never."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccrop_pipeline.base.files import (
    WriteError,
    hidden_name,
    remove_leftovers,
    sha256_of,
    sync,
    temporary_folder,
    writing,
    written_aside,
)
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

    with pytest.raises(WriteError, match=f"{target} cannot be written: full"):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_device_is_not_replaced_even_where_files_may_be(tmp_path, replace):
    target = tmp_path / "device"
    target.symlink_to("/dev/null")  # the link alone would be lost
    with (
        pytest.raises(CcropError, match="is a device, and would be replaced by a file"),
        written_aside(target, replace=replace),
    ):
        pytest.fail("nothing may be written")
    assert [path.name for path in tmp_path.iterdir()] == ["device"]
    assert target.is_symlink()


def test_a_hash_is_that_of_all_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_errors_of_the_disk_name_file_and_cause_and_those_of_other_files_pass(tmp_path):
    def write(error):
        with written_aside(tmp_path / "file"):
            raise error

    full = OSError(errno.ENOSPC, "Error writing bytes to file")  # as pyarrow words it
    with pytest.raises(WriteError, match=r"file cannot be written: no space left.* Make room"):
        write(full)
    with pytest.raises(PermissionError, match="other"):
        write(PermissionError(errno.EACCES, "Permission denied", "other"))
    with pytest.raises(CcropError, match=r"^mine$"):
        write(CcropError("mine"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").touch()
    for place in ("a", "a/b", "a/b/c"):
        message = "/a is a file, and a folder is needed"
        with pytest.raises(WriteError, match=message), writing(tmp_path / place):
            (tmp_path / place).mkdir(exist_ok=True)


WRITER = """
import sys, time
from pathlib import Path
from ccrop_pipeline.base.files import written_aside
with written_aside(Path(sys.argv[1])) as aside:
    aside.write_bytes(b"half")
    print(aside.name, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = f"no room for temporary files in {tmp_path}: no space left on device. .* TMPDIR"
    with pytest.raises(WriteError, match=told) as raised, temporary_folder():
        Path("/dev/full").write_bytes(b"1")  # of which the system says no name
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    for other in (OSError(errno.ENOSPC, "", "/elsewhere"), OSError(errno.EIO, "")):
        with pytest.raises(OSError, match=r"^\[Errno") as raised, temporary_folder():
            raise other
        assert raised.value is other


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    target = tmp_path / "file"
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        name = writer.stdout.readline().strip()
        remove_leftovers(tmp_path)
        assert (tmp_path / name).exists()
        writer.kill()
    assert (tmp_path / name).exists()
    with written_aside(target) as aside:  # the next to write it
        aside.write_bytes(b"whole")
        assert [path.name for path in tmp_path.iterdir()] == [aside.name]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_leftovers_are_removed_and_those_of_other_hosts_when_they_are_old(tmp_path):
    ours, old_folder = tmp_path / hidden_name("a"), tmp_path / hidden_name("old")
    ours.touch()
    old_folder.mkdir()
    (old_folder / "checkpoint.pt").touch()
    young, old = (tmp_path / f".a.{'0' * 15}{i}.tmp" for i in range(2))
    kept = [young, tmp_path / ".a.tmp", tmp_path / "a.0123456789abcdef.tmp", tmp_path / ".b"]
    for path in (old, *kept):
        path.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    remove_leftovers(tmp_path, "b")
    assert ours.exists()
    remove_leftovers(tmp_path)
    assert {*tmp_path.iterdir()} == {*kept}
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch, number):
    """gocryptfs and some mounts of NFS and SMB; a disk that fails is one."""
    fsync, folder = os.fsync, tmp_path.stat()

    def only_files(descriptor):
        if os.path.samestat(os.fstat(descriptor), folder):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            sync(tmp_path)
    else:
        with written_aside(tmp_path / "file") as aside:
            aside.write_bytes(b"content")
        assert (tmp_path / "file").read_bytes() == b"content"


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()

    def invalid(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", invalid)
    with pytest.raises(OSError, match="Invalid"):
        sync(tmp_path / "file")
