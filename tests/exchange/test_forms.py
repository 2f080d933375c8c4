"""Forms of labelling tools: what is written, that it comes back, and what is refused."""

import errno
import json
import os

import numpy as np
import pytest
import slow_readers
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_images import boxes_by_key, folder_of

from ccrop_pipeline.boxset import EMPTY, FULL_BOX, OK, UNREADABLE, BoxSet, Choices
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.exchange import (
    Several,
    export_boxes,
    read_cvat,
    read_fiftyone,
    read_label_studio,
    read_open_images,
    read_yolo,
)
from ccrop_pipeline.exchange.importing import in_shares
from ccrop_pipeline.exchange.joining import join
from tests.given_rows import box_set_of, rows_of

FORMS = ["cvat", "fiftyone", "label-studio", "open-images", "yolo"]
NAMES = {"cvat": "b.xml", "open-images": "b.csv", "yolo": "labels"}
READ = {
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
    "label-studio": read_label_studio,
    "open-images": read_open_images,
    "yolo": read_yolo,
}
# Three images with boxes, one without and one that cannot be read.
KEYS = ["cats/a b,c.jpg", 'cats/ü#1%"<&.png', "dogs/v1.2.jpeg", "dogs/empty.jpg", "broken.jpg"]
STATUS = [OK, OK, OK, EMPTY, UNREADABLE]
SIZES = [(41, 23), (640, 427), (7, 1000), (40, 20), (0, 0)]


def table(boxes, keys=KEYS):
    """A table of all choices of the images with boxes, those of an image the largest first."""
    ordered = [Several("keep:100").apply(np.array(own, np.float32)) for own in boxes]
    full = np.array([FULL_BOX], np.float32)
    choices = Choices.of([*ordered, full, full])
    return rows_of(keys, choices, sizes=SIZES, status=STATUS)


def random_boxes(seed=0):
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((6, 2, 2)), axis=1).reshape(6, 4)
    return [corners[:2], corners[2:3], corners[3:]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    sizes = {
        key.rpartition("/")[2].rpartition(".")[0]: size
        for key, size in zip(KEYS, SIZES, strict=True)
    }
    root = folder_of(tmp_path_factory.mktemp("forms") / "photos", KEYS[:4], **sizes)
    (root / KEYS[4]).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def boxes(photos):
    return box_set_of(photos.parent / "b", table(random_boxes()))


def out_of(form, folder):
    return folder / NAMES.get(form, "b.json")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_what_the_tool_describes(form, boxes, tmp_path):
    path = export_boxes(boxes, out_of(form, tmp_path), form)
    assert path == out_of(form, tmp_path)
    sizes = dict(zip(KEYS, SIZES, strict=True))
    found = slow_readers.READERS[form](path, sizes)
    truth = boxes_by_key(boxes)
    expected = KEYS[:3] if form == "open-images" else KEYS[:4]  # where a line is a box
    assert list(found) == expected
    for key in expected:
        own = np.array(truth[key][2]) * np.tile(sizes[key], 2) if truth[key][0] == "ok" else []
        np.testing.assert_allclose(found[key], own, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_commands_write_and_take_the_same_box_set(form, boxes, photos, tmp_path):
    out, back = out_of(form, tmp_path), tmp_path / "back"
    run = lambda *words: CliRunner().invoke(cli, ["boxes", *map(str, words)])  # noqa: E731
    done = run("export", boxes.folder, out, "--form", form)
    assert done.output.splitlines() == [
        f"5 images in {out} ({form})",
        "without a box: 1 empty, 1 unreadable",
    ]
    done = run("import", photos, back, f"--{form}", out, "--several", "keep:9", "--json")
    assert json.loads(done.stdout)["import"]["boxes"] == 6
    assert boxes_by_key(BoxSet.open(back)) == boxes_by_key(boxes)


def many_boxes():
    """A hundred boxes an image: on the grid of its pixels, at any float32, and at tiny ones."""
    random = np.random.default_rng(0)
    for size in SIZES[:3]:
        edges = random.integers(0, np.add(size, 1)[:, None], (34, 2, 2)) / np.array(size)[:, None]
        edges = np.concatenate([edges, random.random((33, 2, 2)), random.random((33, 2, 2)) ** 60])
        edges = np.sort(edges.astype(np.float32), axis=2)
        edges[edges[..., 0] == edges[..., 1]] = [0, 1]
        yield edges.transpose(0, 2, 1).reshape(-1, 4)


def test_boxes_come_back_to_the_last_bit(tmp_path):
    box_set = box_set_of(tmp_path / "b", table([*many_boxes()]))
    truth = boxes_by_key(box_set)
    for form in FORMS:
        annotations = READ[form](export_boxes(box_set, out_of(form, tmp_path / form), form))
        names = join(annotations.names, KEYS)
        for key, size in zip(KEYS[:3], SIZES, strict=False):
            found = np.clip(in_shares(annotations.read(names[key]), *size), 0, 1)
            expected = np.array(truth[key][2])
            # The difference of two edges has all digits of both where neither is tiny.
            exact = ((expected == 0) | (expected > 2**-20)).all(axis=1)
            assert 200 > exact.sum() > 60
            assert (found[exact].astype(np.float32) == expected[exact]).all(), form
            np.testing.assert_allclose(found, expected, rtol=0, atol=2**-52)


@pytest.mark.parametrize("form", ["fiftyone", "open-images", "yolo"])
def test_names_that_differ_by_their_extension_only_are_refused(form, tmp_path):
    keys = ["a.jpg", "a.png", "b", "c", "d"]
    box_set = box_set_of(tmp_path / "b", table(random_boxes(), keys))
    with pytest.raises(CcropError, match=r"'a\.png' and 'a\.jpg' are both 'a' without"):
        export_boxes(box_set, tmp_path / "out", form)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", "a/..", "x/classes.jpg"])
def test_no_label_file_is_written_outside_of_the_folder(key, tmp_path):
    box_set = box_set_of(tmp_path / "b", table(random_boxes(), [key, *KEYS[1:]]))
    with pytest.raises(CcropError, match="cannot name a label file"):
        export_boxes(box_set, tmp_path / "labels", "yolo")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_name_too_long_for_a_label_file_is_named(tmp_path):
    box_set = box_set_of(tmp_path / "b", table(random_boxes(), ["a" * 300, *KEYS[1:]]))
    with pytest.raises(CcropError, match="cannot be written: file name too long"):
        export_boxes(box_set, tmp_path / "labels", "yolo")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_folder_of_labels_is_never_overwritten_or_half_written(boxes, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    out.mkdir()

    def full():
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sync", full)
        with pytest.raises(OSError, match="labels cannot be written: no space"):
            export_boxes(boxes, out, "yolo")
    assert [*tmp_path.rglob("*")] == [out]
    export_boxes(boxes, out, "yolo")  # an empty folder is taken
    label = next(out.rglob("empty.txt"))
    before = {path: path.stat() for path in out.rglob("*")}
    assert export_boxes(boxes, out, "yolo") == out  # complete already
    assert {path: path.stat() for path in out.rglob("*")} == before
    label.write_text("0 .5 .5 .1 .1\n")  # corrected by hand
    taken = r"labels is already there with other content\. It is never overwritten"
    with pytest.raises(CcropError, match=taken):
        export_boxes(boxes, out, "yolo")
    assert label.read_text() == "0 .5 .5 .1 .1\n"
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CcropError, match="file is already there"):
        export_boxes(boxes, tmp_path / "file", "yolo")
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "labels"]


def test_what_no_xml_can_hold_is_refused(tmp_path):
    box_set = box_set_of(tmp_path / "b", table(random_boxes(), ["a\uffff", *KEYS[1:]]))
    with pytest.raises(CcropError, match="cannot be written as XML"):
        export_boxes(box_set, tmp_path / "b.xml", "cvat")


def test_names_of_files_and_options_fit_the_form(boxes, tmp_path):
    with pytest.raises(SettingError, match=r"b\.json is to be cvat: let its name end in \.xml"):
        export_boxes(boxes, tmp_path / "b.json", "cvat")
    with pytest.raises(SettingError, match="`prefix` is for label-studio"):
        export_boxes(boxes, tmp_path / "b.xml", "cvat", prefix="http://host/")
    done = CliRunner().invoke(
        cli, ["boxes", "export", str(boxes.folder), "x", "--form", "coco", "--prefix", "p"]
    )
    assert (done.exit_code, "--prefix is for --form label-studio" in done.stderr) == (2, True)


@pytest.mark.parametrize("form", ["coco", "hf", *FORMS])
def test_a_suffix_is_put_behind_no_key_that_has_an_extension(form, boxes, tmp_path):
    written = [
        export_boxes(boxes, tmp_path / name / NAMES.get(form, "b"), form, suffix=suffix)
        for name, suffix in (("as-they-are", ""), ("with-suffix", ".jpg"))
    ]
    as_they_are, with_suffix = (
        {str(p.relative_to(path)): p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()}
        for path in written
    )
    assert as_they_are == with_suffix


def test_addresses_of_label_studio_have_prefix_and_suffix(boxes, tmp_path):
    path = tmp_path / "b.json"
    export_boxes(boxes, path, "label-studio", prefix="https://host/p/", suffix=".jpg")
    data = [task["data"] for task in json.loads(path.read_text())]
    assert data[0] == {"image": "https://host/p/cats/a%20b%2Cc.jpg", "key": KEYS[0]}
    # And without the key that we put beside, the path of the address is the name.
    path.write_text(json.dumps([{"data": {"image": each["image"]}} for each in data]))
    assert read_label_studio(path).names == [f"p/{key}" for key in KEYS[:4]]
