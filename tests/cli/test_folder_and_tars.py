"""Boxes of a folder with its tars, and boxes of tars with their folder, where both are read."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.adapters.dataset import StoredTurned
from ccrop_pipeline.boxset import (
    BoxSet,
    BoxTable,
    MissingBoxError,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.boxset.rejoined import images_of
from ccrop_pipeline.compute.linear_fit import _drawn
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.images import Scenes, Source, image_hash, open_source, pack
from ccrop_pipeline.recipes import ViewGroup
from ccrop_pipeline.report import contact_sheet, diff
from ccrop_pipeline.report.gallery import gallery
from ccrop_pipeline.views import ViewLoader
from ccrop_pipeline.views.by_position import MapLoader
from ccrop_pipeline.views.cutter import ViewCutter
from ccrop_pipeline.views.loader import rows_by_shard
from ccrop_pipeline.views.streaming import StreamLoader

# As cameras name them: endings in capitals, dots, other alphabets, two formats.
NAMES = ("cats/1.JPG", "cats/a.b.png", "cats/é.jpeg", "dogs/1.jpg", "dogs/2.png", "10.jpg")
IN_TARS = ("10", "cats/1", "cats/a_b", "cats/é", "dogs/1", "dogs/2")


def boxes_of(source: Source, folder: Path) -> BoxSet:
    """A box of its own for each image, whatever its key, by its bytes; every image is turned."""
    provenance = Provenance(
        None, None, SourceInfo(source.kind, source.fingerprint()), rule="by content"
    )
    for shard in source.shards:
        samples = list(source.read(shard))
        hashes = np.array([image_hash(sample.image) for sample in samples], np.uint64)
        low = np.stack([hashes % np.uint64(97), hashes % np.uint64(89)], 1) / 200
        sizes = [Image.open(io.BytesIO(sample.image)).size for sample in samples]
        table = BoxTable(
            [sample.key for sample in samples],
            np.concatenate([low, low + 0.4], 1).astype(np.float32),
            np.array(sizes, np.uint32),
            np.full(len(samples), 6, np.uint8),
            np.zeros(len(samples), np.uint8),
            hashes,
            np.zeros((len(samples), 2, 2), np.float16),
        )
        write_shard(folder, shard, table, provenance)
    write_manifest(folder, source.shards, provenance)
    return BoxSet.open(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("both")
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), np.uint8)
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / "photos" / name)
    # One tar is named like the folder's only shard.
    pack(place / "photos", place / "tars", prefix="photos", max_images=4)
    for name in ("photos", "tars"):
        boxes_of(open_source(place / name), place / f"boxes-{name}")
    return place


@pytest.fixture(params=[("photos", "tars"), ("tars", "photos")], ids=lambda pair: "-".join(pair))
def both(place: Path, request: pytest.FixtureRequest) -> tuple[BoxSet, Source, BoxSet]:
    """Boxes of one, the other, and its own boxes."""
    one, other = request.param
    boxes, own = (BoxSet.open(place / f"boxes-{name}") for name in (one, other))
    return boxes, open_source(place / other), own


def test_the_keys_are_those_of_folder_and_tars(place: Path) -> None:
    keys = [list(open_source(place / name).index().keys) for name in ("photos", "tars")]
    assert keys == [sorted(NAMES), list(IN_TARS)]


def test_boxes_are_found_by_the_keys_of_the_other(both) -> None:
    boxes, source, own = both
    keys = list(source.index().keys)
    assert boxes.find(keys).tolist() == own.find(keys).tolist()
    assert len(np.unique(boxes.find(keys), axis=0)) == len(NAMES)
    found = diff(boxes, own)
    assert (found.both, found.identical, found.images_changed) == (len(NAMES),) * 2 + (0,)
    ours, theirs = boxes.lookup().common(own.lookup())
    assert len(ours) == len(NAMES)
    assert ours.tolist() == theirs.tolist()
    # Else boxes would not be turned with images that their library has turned.
    assert [stored.orientation for stored in StoredTurned(boxes).of(keys)] == [6] * len(NAMES)


def test_views_are_cut_from_them_by_position_and_in_order(both) -> None:
    boxes, source, own = both
    cutter = ViewCutter((ViewGroup(1, 8, scale=(0.02, 0.1)),), seed=3)
    loaders = [
        MapLoader(source.index(), cutter, batch_size=1),
        StreamLoader(source, cutter, batch_size=1, images=len(NAMES)),
        MapLoader(source.index(), cutter, batch_size=1),
    ]
    found = []
    for loader, used in zip(loaders, (boxes, boxes, own), strict=True):
        loader.use_boxes(used)
        batches = list(loader.epoch(0))
        found.append({int(b.key_hashes[0]): b.views[0].tolist() for b in batches})
    assert len(found[2]) == len(NAMES)
    assert found[0] == found[1] == found[2]
    # Processes that share the shards would else each wait for images of another cut.
    assert rows_by_shard(boxes, source) is None
    assert sum(rows_by_shard(own, source)) == len(NAMES)


def test_images_are_read_as_the_boxes_have_them(both) -> None:
    boxes, source, own = both
    joined = images_of(boxes, source)
    assert joined.shards == tuple(entry.name for entry in boxes.manifest.shards)
    for name, table in boxes.tables():
        samples = list(joined.read(name))
        assert [sample.key for sample in samples] == table.keys
        assert [image_hash(sample.image) for sample in samples] == table.image_hash.tolist()
        labels = {key: 0 if "cats" in key else 1 if "dogs" in key else None for key in table.keys}
        assert [sample.label for sample in samples] == list(labels.values())
    assert images_of(own, source) is source
    shown = gallery(boxes, source, crop=CropParams())
    assert (len(shown.items), shown.absent, shown.other_bytes) == (len(NAMES), 0, 0)
    sheets = [contact_sheet(each, source, CropParams(), count=9) for each in (boxes, own)]
    assert np.asarray(sheets[0]).shape == np.asarray(sheets[1]).shape
    drawn = list(_drawn(boxes, joined, 9))
    assert len(drawn) == len(NAMES)
    assert all(image_hash(image) == table.image_hash[at] for image, table, at in drawn)


def test_an_image_that_is_called_the_same_in_tars_does_not_speak_for_others(tmp_path) -> None:
    """Where shards and the first key are those of the folder, and the other keys are not."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("0", "1.png", "2.png")):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name, "PNG")
    folder = open_source(tmp_path / "photos")
    pack(folder, tmp_path / "tars", prefix="photos")
    tars = open_source(tmp_path / "tars")
    assert tars.shards == folder.shards
    for boxes, source in (
        (boxes_of(folder, tmp_path / "a"), tars),
        (boxes_of(tars, tmp_path / "b"), folder),
    ):
        joined = images_of(boxes, source)
        samples = [sample for shard in joined.shards for sample in joined.read(shard)]
        found = {sample.key: image_hash(sample.image) for sample in samples}
        assert found == {row.key: row.image_hash for row in boxes}


def run(command: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli, command.split(), terminal_width=300)
    assert done.exit_code == status, done.output
    return " ".join(done.output.split())


def test_commands_take_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for boxes, source in (("boxes-photos", "tars"), ("boxes-tars", "photos")):
        assert run(f"boxes validate {boxes} {source}").startswith(f"{boxes}: valid")
        run(f"boxes report {boxes} {source} {boxes}.html")
        said = run(f"boxes show {boxes} {source} cats/1 dogs/1.jpg cats/a_b --out {boxes}.png")
        assert said.startswith(f"3 images in {boxes}.png")
    run("boxes export boxes-photos webdataset --form webdataset")
    for source in ("photos", "tars"):
        assert run(f"boxes validate webdataset {source}").startswith("webdataset: valid")


def test_a_tar_without_images_is_a_shard_without_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack(Scenes(2, size=16).read("train-000000"), Path("tars"), prefix="a")
    tarfile.open("tars/b.tar", "w").close()
    run("boxes centre tars boxes")
    assert run("boxes validate boxes tars").startswith("boxes: valid")
    pack(Scenes(1, size=16, split="test").read("test-000000"), Path("more"), prefix="b")
    shutil.copy("more/b-000000.tar", "tars/b.tar")
    assert "the source shard 'b' has no boxes" in run("boxes validate boxes tars", 1)


def test_what_does_not_belong_is_named(place: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "photos", "photos")
    Path("photos/dogs/2.png").rename("photos/dogs/3.png")
    shutil.copy("photos/10.jpg", "photos/cats/1.JPG")
    said = run(f"boxes validate {place}/boxes-tars photos", 1)
    assert "the row 'dogs/2' has no image" in said
    assert "the image 'dogs/3.png' has no row" in said
    assert "the image 'cats/1' changed" in said
    assert said.count("B02") == 3
    # Two images that one row could be of: none of them is.
    shutil.copy("photos/10.jpg", "photos/10.png")
    said = run(f"boxes validate {place}/boxes-tars photos", 1)
    assert "the image '10.jpg' has no row" in said
    assert "the image '10.png' has no row" in said
    with pytest.raises(MissingBoxError, match=r"3 of 7 images(?s:.*)2 of them would be '10' in"):
        ViewLoader("photos", ViewGroup(1, 8), boxes=place / "boxes-tars", batch_size=2)
