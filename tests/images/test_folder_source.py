import pickle
import shutil

import pytest
from made_sources import folder_of, picture
from torchvision.datasets import ImageFolder

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import open_source

NAMES = ["dog/b.png", "cat/deep/er/a.PNG", "cat/a.png", "dog/a.b.png", "ant/z.png"]


def test_labels_are_those_of_image_folder(tmp_path):
    source = open_source(folder_of(tmp_path / "pets", NAMES))
    theirs = ImageFolder(str(tmp_path / "pets"))
    samples = list(source.read("pets-000000"))
    assert source.shards == ("pets-000000",)
    assert list(source.classes) == theirs.classes
    assert {(str(tmp_path / "pets" / s.key), s.label) for s in samples} == set(theirs.samples)
    assert [s.key for s in samples] == sorted(NAMES)
    assert {s.key: s.image for s in samples} == {n: picture(i) for i, n in enumerate(NAMES)}


def test_index_equals_read(tmp_path):
    source = open_source(folder_of(tmp_path / "pets", [*NAMES, "root.png"]))
    index = pickle.loads(pickle.dumps(source.index()))
    samples = list(source.read("pets-000000"))
    assert list(index.keys) == [s.key for s in samples]
    assert [index.read(i) for i in range(len(index))] == [s.image for s in samples]
    assert index.labels.tolist() == [-1 if s.label is None else s.label for s in samples]


def test_images_at_the_root_have_no_label(tmp_path):
    source = open_source(folder_of(tmp_path / "x", ["a.png", "b.png"]))
    assert [s.label for s in source.read("x-000000")] == [None, None]
    assert source.index().labels.tolist() == [-1, -1]
    assert source.classes == ()


def test_hidden_and_other_files_are_passed_over(tmp_path):
    folder_of(tmp_path / "x", ["a.png", ".b.png", ".trash/c.png", "empty/notes.txt"])
    source = open_source(tmp_path / "x")
    assert list(source.keys) == ["a.png"]


def test_json_beside_an_image_is_its_annotation(tmp_path):
    folder_of(tmp_path / "x", ["c/a.png", "c/b.png"])
    (tmp_path / "x/c/a.json").write_bytes(b'{"boxes": []}')
    source = open_source(tmp_path / "x")
    assert [s.annotation for s in source.read("x-000000")] == [b'{"boxes": []}', None]


def test_linked_folders_are_followed(tmp_path):
    folder_of(tmp_path / "elsewhere", ["a.png"])
    (tmp_path / "x").mkdir()
    (tmp_path / "x/cat").symlink_to(tmp_path / "elsewhere")
    assert list(open_source(tmp_path / "x").keys) == ["cat/a.png"]


def test_a_file_that_went_is_named(tmp_path):
    source = open_source(folder_of(tmp_path / "x", ["a.png", "b.png"]))
    index = source.index()
    (tmp_path / "x/b.png").unlink()
    with pytest.raises(CcropError, match=r"b\.png cannot be read"):
        index.read(1)
    with pytest.raises(CcropError, match=r"b\.png cannot be read"):
        list(source.read("x-000000"))


def test_the_fingerprint_is_of_names_and_sizes(tmp_path):
    folder_of(tmp_path / "x", NAMES)
    shutil.copytree(tmp_path / "x", tmp_path / "under another name")
    seen = {open_source(tmp_path / "x").fingerprint()}
    assert open_source(tmp_path / "under another name").fingerprint() in seen
    (tmp_path / "x/cat/a.png").write_bytes(b"longer" * 99)
    seen.add(open_source(tmp_path / "x").fingerprint())
    folder_of(tmp_path / "x", ["new.png"])
    seen.add(open_source(tmp_path / "x").fingerprint())
    (tmp_path / "x/new.png").rename(tmp_path / "x/newer.png")
    seen.add(open_source(tmp_path / "x").fingerprint())
    assert len(seen) == 4
