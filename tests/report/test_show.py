"""Images with their boxes: which are picked, what is read, and that edges are where they belong."""

import io
import random

import numpy as np
import pytest
from made_boxes import box_set, table
from PIL import Image, ImageDraw

from ccrop_pipeline.boxset import EMPTY, UNREADABLE, BoxSet, Choices, MissingBoxError
from ccrop_pipeline.errors import BoxSetError, SettingError, SourceError
from ccrop_pipeline.images import Sample, Scenes, image_hash, open_source, pack
from ccrop_pipeline.report import pick_keys
from ccrop_pipeline.report.contact_sheet import (
    AROUND,
    CAPTION,
    CELL,
    FOUND,
    GAP,
    HEADER,
    MARGIN,
    OTHER,
)

WIDE = (96, 48)
SHARDS, EACH = 3, 7


def photo(number, size=WIDE):
    file = io.BytesIO()
    Image.new("RGB", size, (90, 90, 10 * number)).save(file, "PNG")
    return file.getvalue()


def keys_of(shard):
    return [f"part-{shard}-{number}" for number in range(EACH)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tars of 21 wide images, a box set over them, and another one in which some moved."""
    place = tmp_path_factory.mktemp("show")
    rng = random.Random(0)
    samples = [
        Sample(key, photo(n), None)
        for shard in range(SHARDS)
        for n, key in enumerate(keys_of(shard))
    ]
    pack(samples, place / "tars", prefix="shard", max_images=EACH)
    for name in ("boxes", "other"):
        tables = []
        for shard in range(SHARDS):
            edges = [
                [0.0, 0.0, rng.randint(1, 16) / 16, rng.randint(1, 8) / 8] for _ in range(EACH)
            ]
            status = np.zeros(EACH, np.uint8)
            status[[2, 4]] = EMPTY, UNREADABLE
            for row in (2, 4):
                edges[row] = [0, 0, 1, 1]
            hashes = [image_hash(sample.image) for sample in samples[shard * EACH :][:EACH]]
            heat = np.full((EACH, 2, 4), 0.5, np.float16)
            tables.append(table(keys_of(shard), edges, status, hashes, heat))
        box_set(place / name, tables)
    return place


@pytest.fixture
def boxes(place):
    return BoxSet.open(place / "boxes")


@pytest.fixture
def other(place):
    return BoxSet.open(place / "other")


def area(row):
    x_min, y_min, x_max, y_max = row.box
    return (x_max - x_min) * (y_max - y_min)


@pytest.mark.parametrize("count", [1, 4, 100])
@pytest.mark.parametrize(("pick", "sign"), [("smallest", 1), ("largest", -1)])
def test_the_smallest_and_the_largest_are_those_of_a_slow_sort(boxes, pick, sign, count):
    rows = [row for row in boxes if row.status == "ok"]
    slow = sorted(rows, key=lambda row: sign * area(row))  # equal ones as they are stored
    assert pick_keys(boxes, pick, count) == [row.key for row in slow][:count]


def test_the_empty_ones_are_the_first_without_content(boxes):
    assert pick_keys(boxes, "empty", 2) == ["part-0-2", "part-1-2"]


def test_random_ones_are_the_same_each_time_and_others_for_another_seed(boxes):
    keys = [row.key for row in boxes]
    picked = pick_keys(boxes, "random", 5)
    assert picked == pick_keys(boxes, "random", 5) == sorted(set(picked), key=keys.index)
    assert len(picked) == 5
    assert len({tuple(pick_keys(boxes, "random", 5, seed=seed)) for seed in range(9)}) > 5
    assert pick_keys(boxes, "random", 1000) == keys


def overlap(one, two):
    """IoU of boxes that begin at the origin."""
    shared = min(one[2], two[2]) * min(one[3], two[3])
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def test_the_most_moved_ones_are_those_of_a_slow_sort(boxes, other):
    pairs = [(overlap(a.box, b.box), a.key) for a, b in zip(boxes, other, strict=True)]
    slow = [key for value, key in sorted(pairs) if value < 1]
    assert pick_keys(boxes, "moved", 6, against=other) == slow[:6]


def cell(sheet, place, number=0, across=2, cells=4):
    left = MARGIN + place % across * (cells * (CELL + GAP) + 2 * GAP) + number * (CELL + GAP)
    top = HEADER + place // across * (CELL + CAPTION + GAP)
    return np.asarray(sheet)[top : top + CELL, left : left + CELL]


def outline(pixels, colour):
    """Rows and columns of the first and the last pixel of a colour."""
    rows, columns = (pixels == colour).all(2).nonzero()
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_edges_are_where_the_box_is_and_the_image_keeps_its_ratio(boxes, place):
    keys = ["part-1-3", "part-0-1", "part-2-6"]
    sheet = boxes.show(place / "tars", keys)
    assert sheet.size == (2 * (4 * 150 + 12) - 18 + 2 * 8, 44 + 2 * 168)
    for number, key in enumerate(keys):
        pixels = cell(sheet, number)
        # 96 by 48 pixels become 144 by 72, in the middle of the cell.
        assert (pixels[:36] == 255).all()
        assert (pixels[-36:] == 255).all()
        assert (pixels[36:-36] != 255).any(axis=2).all()
        _, _, right, bottom = boxes[key].box
        assert outline(pixels, FOUND) == (
            36,
            36 + round(bottom * 72) - 1,
            0,
            round(right * 144) - 1,
        )
        # Heat of a half over grey lies on the whole image, views fill their cells.
        assert (cell(sheet, number, 1)[36:-36] != 255).any(axis=2).all()
        assert (cell(sheet, number, 2) != 255).any(axis=2).all()
        below = HEADER + number // 2 * 168 + CELL
        left = 8 + number % 2 * 612
        assert (np.asarray(sheet)[below : below + CAPTION, left : left + 80] == 0).any()
    assert (np.asarray(sheet)[:, :6] == 255).all()
    assert (np.asarray(sheet)[:, -6:] == 255).all()


def test_the_views_are_those_that_training_cuts(boxes, place):
    from ccrop_pipeline.crops import CropParams
    from ccrop_pipeline.views import ViewCutter, ViewGroup
    from ccrop_pipeline.views.batch import hash_keys

    source, keys = open_source(place / "tars"), ["part-1-3", "part-2-6"]
    index = source.index()
    images = [index.read(list(index.keys).index(key)) for key in keys]
    cutter = ViewCutter((ViewGroup(2, CELL, **vars(CropParams())),))
    (views,), _ = cutter.cut(images, keys, hash_keys(keys), boxes.find(keys), epoch=0)
    sheet = boxes.show(source, keys)
    for image in range(2):
        for view in range(2):
            expected = views[view, image].permute(1, 2, 0).numpy()
            assert (cell(sheet, image, 2 + view) == expected).all()


def test_boxes_of_the_other_set_are_drawn_as_well(boxes, other, place):
    sheet = boxes.show(place / "tars", ["part-0-0"], against=other)
    _, _, right, bottom = other["part-0-0"].box
    found = outline(cell(sheet, 0, across=1), OTHER)
    assert (found[1], found[3]) == (36 + round(bottom * 72) - 1, round(right * 144) - 1)


def test_the_legend_names_the_sets_that_are_compared(boxes, other, place, monkeypatch):
    written = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda *a, **k: (written.append(a[2]), text(*a, **k))
    )
    boxes.show(place / "tars", ["part-0-0"], against=other)
    assert [name[-12:] for name in written[:2]] == [str(s.folder)[-12:] for s in (boxes, other)]


def one_image(folder, image, choices=None, heat=None, hashes=None):
    pack([Sample("a", image, None)], folder / "tars")
    rows = table(["a"], [[0, 0, 1, 1]], hashes=hashes, heatmaps=heat)
    if choices is not None:
        rows.choices = Choices.of([np.array(choices, np.float32)])
    return box_set(folder / "boxes", [rows]), open_source(folder / "tars")


def test_each_of_several_boxes_is_drawn_within_the_box_around_them(tmp_path):
    found, source = one_image(tmp_path, photo(1, (72, 72)), [[0, 0, 0.5, 0.5], [0.75, 0.5, 1, 1]])
    pixels = cell(found.show(source), 0, across=1)
    assert outline(pixels, AROUND) == (0, 143, 0, 143)
    assert outline(pixels[:, :100], FOUND) == (0, 71, 0, 71)
    assert outline(pixels[72:, 100:], FOUND) == (0, 71, 8, 43)


def test_without_heatmaps_there_is_no_cell_for_them(tmp_path):
    found, source = one_image(tmp_path, photo(1))
    assert found.show(source).size == (3 * 150 - 6 + 2 * 8, 44 + 168)


def test_an_image_that_cannot_be_decoded_is_said_to_be_so(tmp_path):
    found, source = one_image(tmp_path, b"no image")
    assert len(np.unique(cell(found.show(source), 0, cells=3))) > 2


def test_other_bytes_than_the_box_is_from_are_marked(tmp_path):
    image = photo(1)
    colours = []
    for name, stored in (("same", image_hash(image)), ("unknown", 0), ("other", 5)):
        found, source = one_image(tmp_path / name, image, hashes=[stored])
        caption = np.asarray(found.show(source))[HEADER + CELL :]
        colours.append((caption == FOUND).all(2).any())
    assert colours == [False, False, True]


class Watched:
    """A source that is read by position or in order, and what was read of it.

    Its shards have the names of those of the box set.
    """

    shards = ("s-0", "s-1", "s-2")

    def __init__(self, source, random_access):
        self.source, self.random_access, self.was_read = source, random_access, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def index(self):
        index, was_read = self.source.index(), self.was_read

        class Index:
            keys, labels = index.keys, index.labels

            def read(self, i):
                was_read.append(index.keys[i])
                return index.read(i)

        return Index()

    def read(self, shard):
        for sample in self.source.read(self.source.shards[self.shards.index(shard)]):
            self.was_read.append(sample.key)
            yield sample


def test_only_the_images_that_are_shown_are_read(boxes, place):
    watched = Watched(open_source(place / "tars"), random_access=True)
    pictures = [boxes.show(watched, ["part-2-1", "part-0-3"])]
    assert sorted(watched.was_read) == ["part-0-3", "part-2-1"]
    # Read in order: of the shards they are in, as far as the last of them.
    watched = Watched(open_source(place / "tars"), random_access=False)
    pictures.append(boxes.show(watched, ["part-2-1", "part-0-3"]))
    assert sorted(watched.was_read) == [*keys_of(0)[:4], *keys_of(2)[:2]]
    assert (np.asarray(pictures[0]) == np.asarray(pictures[1])).all()


def test_what_cannot_be_shown_is_said(boxes, other, place, tmp_path):
    tars = place / "tars"
    with pytest.raises(MissingBoxError, match=r"no image 'part-1-x' \(did you mean part-1-.\?\)"):
        boxes.show(tars, ["part-0-0", "part-1-x"])
    pack([Sample("else", photo(1), None)], tmp_path / "tars")
    with pytest.raises(SourceError, match=r"has no image 'part-0-0', of which .* has a box"):
        boxes.show(tmp_path / "tars", ["part-0-0"])
    with pytest.raises(SettingError, match="must be a list"):
        boxes.show(tars, "part-0-0")
    with pytest.raises(SettingError, match="did you mean smallest"):
        boxes.show(tars, pick="smalest")
    with pytest.raises(SettingError, match="needs `against`"):
        boxes.show(tars, pick="moved")
    with pytest.raises(SettingError, match="count is 0"):
        boxes.show(tars, count=0)
    with pytest.raises(BoxSetError, match="no box moved"):
        boxes.show(tars, pick="moved", against=boxes)
    alone = box_set(tmp_path / "boxes", [table(["else"], [[0, 0, 1, 1]])])
    for pick in ("random", "moved"):
        with pytest.raises(BoxSetError, match=r"has none of these images of .* `against`"):
            boxes.show(tars, pick=pick, against=alone)
    with pytest.raises(BoxSetError, match="is empty"):
        alone.show(tmp_path / "tars", pick="empty")


def test_a_key_without_its_folder_is_recognised(tmp_path):
    alone = box_set(tmp_path, [table(["cats/siamese/0017.jpg", "b"], [[0, 0, 1, 1]] * 2)])
    with pytest.raises(MissingBoxError, match=r"did you mean cats/siamese/0017\.jpg"):
        alone.show(Scenes(1), ["0017"])
