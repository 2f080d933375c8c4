"""Whatever is written is on the disk before its name is, and the name before the call returns.

No test can cut the power. Here every `fsync` notes what it made sure of: a file, or the names that
a folder has at the time.
"""

import os
from pathlib import Path

import pytest

from ccrop_pipeline.base.files import written_aside
from ccrop_pipeline.boxset import convert
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.export import export_backbone
from ccrop_pipeline.images import Scenes, pack
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training.checkpoint import Checkpoint, save_checkpoint


def inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*")}


class Disk:
    """What is known to be on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.synced, self.fsync = folder, [], os.fsync
        monkeypatch.setattr(os, "fsync", self.note)

    def note(self, descriptor: int) -> None:
        self.fsync(descriptor)
        stat = os.fstat(descriptor)
        self.synced.append((stat.st_ino, stat.st_size, inodes(self.folder)))

    def keeps(self, path: Path) -> bool:
        """Whether a power cut at any time would leave the old file or the whole new one."""
        stat, parent = path.stat(), path.parent.stat()
        content = [
            turn
            for turn, (inode, size, seen) in enumerate(self.synced)
            if (inode, size) == (stat.st_ino, stat.st_size) and seen.get(path) != stat.st_ino
        ]
        named = [
            turn
            for turn, (inode, _, seen) in enumerate(self.synced)
            if inode == parent.st_ino and seen.get(path) == stat.st_ino
        ]
        return bool(content and named) and content[0] < named[-1]


@pytest.fixture
def disk(monkeypatch, tmp_path):
    return Disk(monkeypatch, tmp_path)


def test_a_file_that_is_written_aside(disk, tmp_path):
    with written_aside(tmp_path / "file") as aside:
        aside.write_text("new")
    assert disk.keeps(tmp_path / "file")


def test_a_file_system_without_links(disk, tmp_path, monkeypatch):
    def refused(self, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with written_aside(tmp_path / "file") as aside:
        aside.write_text("new")
    assert disk.keeps(tmp_path / "file")


def test_a_file_that_takes_the_place_of_another(disk, tmp_path):
    (tmp_path / "file").write_text("old")
    with written_aside(tmp_path / "file", replace=True) as aside:
        aside.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert disk.keeps(tmp_path / "file")


def test_a_box_set_in_either_form(disk, tmp_path):
    fixed_boxes(Scenes(5, size=32), tmp_path / "boxes", "centre")
    convert(tmp_path / "boxes", tmp_path / "tars", form="webdataset")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.name == "manifest.json" for path in files) == 2
    assert {".parquet", ".tar"} <= {path.suffix for path in files}
    assert [path for path in files if not disk.keeps(path)] == []


def test_packed_images(disk, tmp_path):
    pack(Scenes(20, size=32), tmp_path / "tars", max_images=7)
    assert disk.keeps(tmp_path / "tars")
    tars = list((tmp_path / "tars").glob("*.tar"))
    assert len(tars) == 3
    before = {(inode, size) for inode, size, seen in disk.synced if tmp_path / "tars" not in seen}
    assert {(path.stat().st_ino, path.stat().st_size) for path in tars} <= before


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_and_what_is_exported_of_it(disk, tmp_path, suffix):
    recipe = load_recipe("demo", ["backbone=resnet18"])
    state = build_method(recipe.method, recipe.backbone).state_dict()
    save_checkpoint(tmp_path / "checkpoint.pt", Checkpoint(1, recipe, state, {}))
    assert disk.keeps(tmp_path / "checkpoint.pt")
    export_backbone(tmp_path / "checkpoint.pt", tmp_path / f"out{suffix}")
    assert disk.keeps(tmp_path / f"out{suffix}")
