"""Whatever its bytes, a box set is taken as `validate` has it or refused by name."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest
from hostile_boxsets import KINDS, Hostile, Random, verdicts

from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.errors import BoxSetError


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each_kind_are_taken_or_refused(kind: str) -> None:
    assert set(verdicts(kind, range(10))) <= {"taken", "refused"}


@pytest.mark.parametrize("rows", [-1, 1 << 53, 10**400], ids=range(3))
def test_counts_that_no_box_set_has_are_refused(rows: int, tmp_path: Path) -> None:
    hostile = Hostile(Random(0), "parquet")
    manifest = hostile.manifest()
    manifest["rows"] += rows - manifest["shards"][0]["rows"]
    manifest["shards"][0]["rows"] = rows
    hostile.say(manifest)
    folder = hostile.write(tmp_path)
    assert [problem.rule for problem in validate(folder)] == ["B001"]
    with pytest.raises(BoxSetError, match=r"manifest\.json: not readable: rows"):
        BoxSet.open(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, '"\\ud800"', '{"a": 1e999}', "\0"])
def test_json_that_python_cannot_follow_is_refused(text: str, tmp_path: Path) -> None:
    hostile = Hostile(Random(0), "parquet")
    hostile.files["manifest.json"] = text.encode()
    folder = hostile.write(tmp_path)
    with pytest.raises(BoxSetError, match=r"manifest\.json") as caught:
        BoxSet.open(folder)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"6", b"S"])
def test_members_that_are_no_plain_files_are_refused(kind: bytes, tmp_path: Path) -> None:
    hostile = Hostile(Random(0), "webdataset")
    path = tmp_path / "s.tar"
    path.write_bytes(hostile.files[hostile.shard])
    with tarfile.open(path) as tar:
        texts = dict(tar.pax_headers)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=texts) as tar:
        member = tarfile.TarInfo("a.box.json")
        member.type, member.linkname = kind, "a.box.json"
        tar.addfile(member)
    hostile.put(path.read_bytes())
    problems = validate(hostile.write(tmp_path))
    assert "B011" in {problem.rule for problem in problems}


def test_a_manifest_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    assert [problem.rule for problem in validate(tmp_path)] == ["B001"]


def test_a_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BoxSetError, match="more than any box set needs"):
        BoxSet.open(tmp_path)


def test_a_message_is_short_however_long_the_value(tmp_path: Path) -> None:
    hostile = Hostile(Random(0), "parquet")
    manifest = hostile.manifest()
    manifest["provenance"] = json.dumps(json.loads(manifest["provenance"]) | {"rule": ["x"] * 9999})
    manifest["fingerprint"] = hashlib.sha256(manifest["provenance"].encode()).hexdigest()
    hostile.say(manifest)
    with pytest.raises(BoxSetError, match="B003") as caught:
        BoxSet.open(hostile.write(tmp_path))
    assert len(str(caught.value)) < 600
