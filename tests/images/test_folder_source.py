import errno
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
from made_sources import folder_of, picture
from PIL import features
from torchvision.datasets import ImageFolder

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import decode, open_source
from ccrop_pipeline.images.decode import IMAGE_EXTENSIONS

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
    assert str(source.ignored) == "2 hidden (.b.png, .trash); 1 .txt (empty/notes.txt)"


def test_json_beside_an_image_is_its_annotation(tmp_path):
    folder_of(tmp_path / "x", ["c/a.png", "c/b.png"])
    (tmp_path / "x/c/a.json").write_bytes(b'{"boxes": []}')
    source = open_source(tmp_path / "x")
    assert [s.annotation for s in source.read("x-000000")] == [b'{"boxes": []}', None]


def test_links_out_of_the_folder_are_followed_when_asked(tmp_path):
    folder_of(tmp_path / "elsewhere", ["a.png", "deep/b.png"])
    folder_of(tmp_path / "x", ["dog/a.png"])
    (tmp_path / "x/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/dog/c.png").symlink_to(tmp_path / "elsewhere/a.png")
    (tmp_path / "x/dog/a.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text("{}")
    source = open_source(tmp_path / "x")
    assert list(source.keys) == ["dog/a.png"]
    assert source.ignored.counts["links out of the folder"] == 3
    assert source.ignored.first["links out of the folder"] == ["dog/a.json", "dog/c.png", "cat"]
    assert [s.annotation for s in source.read("x-000000")] == [None]
    asked = open_source(tmp_path / "x", follow_links=True)
    assert list(asked.keys) == ["cat/a.png", "cat/deep/b.png", "dog/a.png", "dog/c.png"]
    assert [s.annotation for s in asked.read("x-000000")] == [None, None, b"{}", None]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CcropError, match=r"1 link out of the folder \(cat\).*`follow_links`"):
        open_source(tmp_path / "only")


def test_links_inside_are_followed_once(tmp_path):
    folder_of(tmp_path / "x", ["cat/a.png", "cat/b.png", ".store/c.png", ".store/again/d.png"])
    for link, target in {
        "cat/self": ".",
        "cat/up": "..",
        "kitten": "cat",
        "dog": ".store",
        "fox": ".store/again",
        "cat/copy.png": "a.png",
        "loop": "loop",
        "cat/gone.png": "nowhere.png",
    }.items():
        (tmp_path / "x" / link).symlink_to(target)
    (tmp_path / "root").symlink_to("x")
    for root in ("x", "root"):
        source = open_source(tmp_path / root)
        assert list(source.keys) == [
            *("cat/a.png", "cat/b.png", "cat/copy.png", "dog/again/d.png", "dog/c.png")
        ]
        assert source.ignored.counts == {
            "hidden": 1,
            "links to folders that are read already": 4,
            "broken links": 2,
        }


@pytest.mark.parametrize("follow_links", [False, True])
def test_only_regular_files_are_read(tmp_path, follow_links):
    folder_of(tmp_path / "x", ["cat/a.png"])
    os.mkfifo(tmp_path / "x/cat/b.jpg")
    os.mkfifo(tmp_path / "x/cat/noname")
    os.mkfifo(tmp_path / "x/cat/a.json")
    (tmp_path / "x/cat/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "x/cat/pipe.jpg").symlink_to("b.jpg")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "x/s.png"))
        source = open_source(tmp_path / "x", follow_links=follow_links)
        assert [s.key for s in source.read("x-000000")] == ["cat/a.png"]
    assert source.ignored.counts == {"special files": 6}


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    folder_of(tmp_path / "x", ["cat/a.png", "dog/b.png"])
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CcropError, match=r"x/dog cannot be listed \(permission denied\)"):
        open_source(tmp_path / "x")


def test_a_file_whose_name_cannot_be_a_key_is_named_and_left_out(tmp_path):
    """Before boxes are computed, that could not be written under it."""
    names = ["a\nb.png", "c\x1b]0;d\x07.png", "e\u202ef.png", "g\x85/h.png"]
    source = open_source(folder_of(tmp_path / "x", names))
    assert list(source.keys) == ["e\u202ef.png"]
    assert source.ignored.counts == {"names with control characters": 3}
    assert str(source.ignored).startswith("3 names with control characters (a\nb.png")


def test_a_file_whose_name_is_no_text_is_named_and_left_out(tmp_path):
    folder_of(tmp_path / "x", ["cat/a.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/x/cat/caf\xe9.png")).write_bytes(picture(1))
    source = open_source(tmp_path / "x")
    assert list(source.keys) == list(source.index().keys) == ["cat/a.png"]
    assert source.ignored.counts == {"names not in UTF-8": 1}
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x/d\xf6g"))
    folder_of(folder, ["b.png"])
    for place in (tmp_path / "x", folder):
        with pytest.raises(CcropError, match=r"d\\xf6g' is not UTF-8. Rename it"):
            open_source(place)


@pytest.mark.skipif("heic" in IMAGE_EXTENSIONS, reason="pillow-heif is installed")
def test_other_names_of_images_are_read_by_content_where_they_tell_nothing(tmp_path):
    forms = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.jp2": "JPEG2000", "d": "JPEG", "e": "PNG"}
    if features.check("avif"):
        forms |= {"f.avif": "AVIF", "g": "AVIF"}
    (tmp_path / "x").mkdir()
    for i, (name, form) in enumerate(forms.items()):
        (tmp_path / "x" / name).write_bytes(picture(i, form))
    others = {
        "h": b"text",
        "i": b"",
        "j.heic": b"x",
        "k.txt": picture(0),
        "l.1": b"x",
        "m.json": b"",
    }
    for name, content in others.items():
        (tmp_path / "x" / name).write_bytes(content)
    source = open_source(tmp_path / "x")
    assert list(source.keys) == list(forms)
    assert all(decode(s.image).size == (8, 8) for s in source.read("x-000000"))
    heic = next(kind for kind in source.ignored.counts if "heic" in kind)
    assert "pip install pillow-heif" in heic
    assert source.ignored.counts == {
        "without extension": 2,
        heic: 1,
        ".txt": 1,
        ".1": 1,
        ".json": 1,
    }


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
