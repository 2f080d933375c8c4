import io
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.boxset import EMPTY, OK, UNREADABLE, BoxSet, validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.errors import BoxSetError, CcropError, SourceError
from ccrop_pipeline.images import Sample, Scenes, image_hash, open_source, pack
from ccrop_pipeline.localize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BoxRule,
    Encoder,
    Localizer,
    build_backbone,
)

SETTINGS = {"batch_size": 7}


def localizer(seed=0, size=32, threshold=0.1):
    torch.manual_seed(seed)
    backbone = build_backbone("small")
    encoder = Encoder(backbone, backbone.layer, size, name="small", epoch=3)
    return Localizer(encoder, "sum", BoxRule(threshold))


class Recorder(Observer):
    def __init__(self):
        self.located, self.written, self.halved, self.plan = [], [], [], None

    def begun(self, shards, kept):
        self.plan = (shards, kept)

    def images_done(self, images, shard="", stages=None):
        self.located.append((shard, images))

    def shard_written(self, shard, images, unreadable=0):
        self.written.append((shard, images, unreadable))

    def batch_halved(self, batch_size):
        self.halved.append(batch_size)


@pytest.fixture
def source(tmp_path):
    pack(Scenes(30, size=48), tmp_path / "tars", max_images=10)
    return open_source(tmp_path / "tars")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def plain_box(image: bytes, module: torch.nn.Module, threshold: float, size: int):
    """The paper's rule for one image, with Pillow, torch and loops."""
    pixels = Image.open(io.BytesIO(image)).convert("RGB").resize((size, size), Image.BILINEAR)
    tensor = torch.from_numpy(np.asarray(pixels).copy()).permute(2, 0, 1).float() / 255
    tensor = (tensor - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )
    kept = []
    handle = module.layer4.register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        module.eval()(tensor[None])
    handle.remove()
    heat = kept[0][0].sum(0)
    heat = ((heat - heat.min()) / (heat.max() - heat.min())).half()
    full = torch.nn.functional.interpolate(heat[None, None].double(), (size, size), mode="bilinear")
    cells = [(y, x) for y in range(size) for x in range(size) if full[0, 0, y, x] > threshold]
    rows, columns = [y for y, _ in cells], [x for _, x in cells]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1], heat


@pytest.mark.slow
def test_boxes_are_those_of_the_papers_rule(source, tmp_path):
    ours = localizer()
    box_set = compute_boxes(source, ours, tmp_path / "boxes", **SETTINGS)
    for shard in source.shards:
        table = box_set.read(shard)
        samples = list(source.read(shard))
        assert table.keys == [sample.key for sample in samples]
        assert table.image_hash.tolist() == [image_hash(sample.image) for sample in samples]
        assert (table.sizes == 48).all()
        assert (table.status == OK).all()
        for row, sample in enumerate(samples):
            box, heat = plain_box(sample.image, ours.encoder.module, 0.1, 32)
            np.testing.assert_allclose(table.heatmaps[row], heat, atol=2e-3)
            # One cell of slack: batched convolutions round differently from single ones.
            np.testing.assert_allclose(table.boxes[row] * 32, box, atol=1.0)


def test_a_stopped_run_is_taken_up_and_ends_with_the_same_bytes(source, tmp_path):
    whole = compute_boxes(source, localizer(), tmp_path / "whole", **SETTINGS).folder
    part = tmp_path / "part"
    compute_boxes(source, localizer(), part, **SETTINGS)
    (part / "manifest.json").unlink()
    (part / f"data/{source.shards[1]}.parquet").unlink()
    kept = part / f"data/{source.shards[0]}.parquet"
    os.utime(kept, (1, 1))
    seen = Recorder()
    compute_boxes(source, localizer(), part, **SETTINGS, observer=seen)
    assert contents(part) == contents(whole)
    assert kept.stat().st_mtime == 1
    assert seen.plan == (1, 2)
    assert seen.located == [(source.shards[1], 7), (source.shards[1], 3)]
    assert seen.written == [(source.shards[1], 10, 0)]


def test_a_complete_set_is_left_as_it_is(source, tmp_path):
    compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS)
    before = contents(tmp_path / "boxes")
    seen = Recorder()
    compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS, observer=seen)
    assert contents(tmp_path / "boxes") == before
    assert (seen.plan, seen.located, seen.written) == ((0, 3), [], [])


@pytest.mark.parametrize("other", ["weights", "threshold", "input size", "source"])
def test_boxes_of_something_else_are_refused_and_untouched(source, tmp_path, other):
    compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS)
    before = contents(tmp_path / "boxes")
    changed = localizer(
        seed=int(other == "weights"),
        size=40 if other == "input size" else 32,
        threshold=0.2 if other == "threshold" else 0.1,
    )
    if other == "source":
        pack(Scenes(29, size=48), tmp_path / "more", max_images=10)
        source = open_source(tmp_path / "more")
    named = {
        "weights": r"encoder.weights_sha256: \S+ -> \S+ \(other .*\)",
        "threshold": r"localizer.threshold: 0.1 -> 0.2",
        "input size": r"localizer.input_size: 32 -> 40",
        "source": r"source.fingerprint: \S+ -> \S+ \(other .*\)",
    }[other]
    with pytest.raises(CcropError, match=rf"made in another way .*\n  {named}\nRepeat"):
        compute_boxes(source, changed, tmp_path / "boxes", **SETTINGS)
    assert contents(tmp_path / "boxes") == before


def test_overwrite_replaces_a_box_set_and_nothing_else(source, tmp_path):
    folder = tmp_path / "boxes"
    compute_boxes(source, localizer(), folder, **SETTINGS)
    box_set = compute_boxes(source, localizer(seed=1), folder, **SETTINGS, overwrite=True)
    assert validate(box_set.folder) == []
    for name in ("thesis.tex", ".thesis.tex"):
        (folder / name).write_text("precious")
        with pytest.raises(CcropError, match=name.replace(".", r"\.")):
            compute_boxes(source, localizer(), folder, **SETTINGS, overwrite=True)
        (folder / name).rename(tmp_path / name)
        assert (tmp_path / name).read_text() == "precious"


def test_overwrite_keeps_a_file_that_came_while_it_computed(source, tmp_path):
    folder = tmp_path / "boxes"
    compute_boxes(source, localizer(), folder, **SETTINGS)

    class Writer(Observer):
        def shard_written(self, shard, images, unreadable=0):
            (folder / "thesis.tex").write_text("precious")

    settings = SETTINGS | {"overwrite": True}
    with pytest.raises(CcropError, match=r"thesis\.tex"):
        compute_boxes(source, localizer(seed=1), folder, **settings, observer=Writer())
    assert (folder / "thesis.tex").read_text() == "precious"
    assert BoxSet.open(folder).manifest.rows == 30


def broken_source(source, tmp_path):
    last = tmp_path / "tars" / f"{source.shards[-1]}.tar"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    return open_source(tmp_path / "tars")


def repeated_keys(source, tmp_path):
    shutil.copy(tmp_path / "tars" / f"{source.shards[0]}.tar", tmp_path / "tars/more.tar")
    return open_source(tmp_path / "tars")


def unreadable_images(source, tmp_path):
    pack([Sample(f"{i}", b"no image", None) for i in range(9)], tmp_path / "bad")
    return open_source(tmp_path / "bad")


@pytest.mark.parametrize("other", [broken_source, repeated_keys, unreadable_images])
def test_a_set_is_not_lost_where_the_one_in_its_place_is_refused(source, tmp_path, other):
    folder = tmp_path / "boxes"
    compute_boxes(source, localizer(), folder, **SETTINGS)
    before = contents(folder)
    settings = SETTINGS | {"max_bad": 0.1, "overwrite": True}
    with pytest.raises(CcropError):
        compute_boxes(other(source, tmp_path), localizer(seed=1), folder, **settings)
    assert contents(folder) == before
    assert validate(folder) == []


class KilledError(BaseException):
    """What no handler of errors catches, like the end of the process."""


class KillsAfter(Observer):
    def __init__(self, shards):
        self.left = shards

    def shard_written(self, shard, images, unreadable=0):
        self.left -= 1
        if not self.left:
            raise KilledError


@pytest.mark.parametrize("point", ["shards", "first rename", "second rename"])
def test_a_kill_while_a_set_is_replaced_leaves_a_whole_one(source, tmp_path, monkeypatch, point):
    (tmp_path / "here").mkdir()
    folder = tmp_path / "here/boxes"
    new = compute_boxes(source, localizer(seed=1), tmp_path / "new", **SETTINGS).folder
    before = contents(compute_boxes(source, localizer(), folder, **SETTINGS).folder)
    killer = KillsAfter(2 if point == "shards" else 99)
    settings = SETTINGS | {"overwrite": True}
    renames = iter({"shards": [], "first rename": [True], "second rename": [False, True]}[point])
    rename = Path.rename

    def stops(path, target):
        if path.is_dir() and next(renames, False):
            raise KilledError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(KilledError):
        compute_boxes(source, localizer(seed=1), folder, **settings, observer=killer)
    whole = [contents(p) for p in (tmp_path / "here").iterdir() if (p / "manifest.json").is_file()]
    assert before in whole or contents(new) in whole
    assert point == "second rename" or contents(folder) == before
    seen = Recorder()
    compute_boxes(source, localizer(seed=1), folder, **settings, observer=seen)
    assert seen.plan == ((1, 2) if point == "shards" else (0, 3))
    assert contents(folder) == contents(new)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["boxes"]


def test_unreadable_and_blank_images_get_the_full_box(tmp_path):
    good = next(Scenes(1, size=48).read("train-000000")).image
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(good)).crop((0, 0, 48, 32)).save(turned, "JPEG", exif=exif)
    samples = [Sample("bad", b"\xff\xd8broken", None), Sample("good", turned.getvalue(), None)]
    pack(samples, tmp_path / "tars")
    blank = localizer()
    for weight in blank.encoder.module.parameters():
        weight.data.zero_()
    source = open_source(tmp_path / "tars")
    table = compute_boxes(source, blank, tmp_path / "blank", **SETTINGS).read("data-000000")
    assert table.status.tolist() == [UNREADABLE, EMPTY]
    assert table.boxes.tolist() == [[0, 0, 1, 1]] * 2
    assert table.sizes.tolist() == [[0, 0], [48, 32]]
    assert table.orientation.tolist() == [1, 6]
    table = compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS).read("data-000000")
    assert table.status.tolist() == [UNREADABLE, OK]


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_both_forms_hold_the_same_boxes_with_heatmaps_or_without(source, tmp_path, form):
    reference = compute_boxes(source, localizer(), tmp_path / "reference", **SETTINGS)
    settings = SETTINGS | {"heatmaps": False, "form": form}
    box_set = compute_boxes(source, localizer(), tmp_path / "boxes", **settings)
    for (_, ours), (_, theirs) in zip(box_set.tables(), reference.tables(), strict=True):
        assert ours.heatmaps is None
        assert np.array_equal(ours.boxes, theirs.boxes)
    assert BoxSet.open(tmp_path / "boxes").manifest.form == form


def test_keys_that_repeat_in_the_next_shard_are_found_there(tmp_path):
    image = next(Scenes(1, size=48).read("train-000000")).image
    (tmp_path / "tars").mkdir()
    for part in "ab":
        pack([Sample("same", image, None)], tmp_path / part, prefix=part)
        (tmp_path / part / f"{part}-000000.tar").rename(tmp_path / "tars" / f"{part}.tar")
    with pytest.raises(CcropError, match="same"):
        compute_boxes(open_source(tmp_path / "tars"), localizer(), tmp_path / "boxes", **SETTINGS)
    assert not (tmp_path / "boxes/manifest.json").exists()


def test_tars_from_elsewhere_give_the_same_bytes(source, tmp_path):
    here = compute_boxes(source, localizer(), tmp_path / "here", **SETTINGS).folder
    remote = open_source(f"file://{tmp_path}/tars/*.tar")
    assert contents(compute_boxes(remote, localizer(), tmp_path / "there", **SETTINGS).folder) == (
        contents(here)
    )


def test_a_key_in_two_shards_of_two_processes_is_found_at_the_end(tmp_path):
    (sample,) = Scenes(1, size=48).read("train-000000")
    for number in range(2):
        pack([sample], tmp_path / f"{number}", prefix=f"t{number}")
    source = open_source(f"pipe:cat {tmp_path}/{{0/t0,1/t1}}-000000.tar")
    folder = tmp_path / "boxes"
    assert compute_boxes(source, localizer(), folder, **SETTINGS, ranks=Ranks(0, 2)) is None
    with pytest.raises(CcropError, match="B018"):
        compute_boxes(source, localizer(), folder, **SETTINGS, ranks=Ranks(1, 2))
    assert not (folder / "manifest.json").exists()


def test_portions_in_any_order_make_the_set_of_one_process(source, tmp_path):
    whole = compute_boxes(source, localizer(), tmp_path / "whole", **SETTINGS).folder
    folder = tmp_path / "shared"
    for rank in (2, 0):
        ranks = Ranks(rank, 3)
        assert compute_boxes(source, localizer(), folder, **SETTINGS, ranks=ranks) is None
    last = compute_boxes(source, localizer(), folder, **SETTINGS, ranks=Ranks(1, 3))
    assert contents(last.folder) == contents(whole)
    seen = Recorder()
    again = compute_boxes(source, localizer(), folder, **SETTINGS, observer=seen, ranks=Ranks(0, 3))
    assert (again.manifest, seen.plan) == (last.manifest, (0, 1))


def test_of_two_that_overwrite_at_once_the_second_is_refused(source, tmp_path):
    """They would work in one hidden folder, and the first to be done moves it."""
    compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS)
    before = contents(tmp_path / "boxes")
    with only_writer(tmp_path / ".boxes.overwrite"):
        with pytest.raises(CcropError, match="being written by process"):
            compute_boxes(source, localizer(1), tmp_path / "boxes", **SETTINGS, overwrite=True)
        assert contents(tmp_path / "boxes") == before
    compute_boxes(source, localizer(1), tmp_path / "boxes", **SETTINGS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name != "tars"] == ["boxes"]


def test_several_processes_do_not_overwrite(source, tmp_path):
    compute_boxes(source, localizer(), tmp_path / "boxes", **SETTINGS)
    before = contents(tmp_path / "boxes")
    with pytest.raises(CcropError, match="process alone"):
        compute_boxes(
            source, localizer(), tmp_path / "boxes", **SETTINGS, overwrite=True, ranks=Ranks(0, 2)
        )
    assert contents(tmp_path / "boxes") == before


@pytest.mark.parametrize(
    ("bad", "of", "max_bad", "allowed"),
    [
        (3, 10, 0.3, 3),
        (4, 10, 0.3, 3),
        (2, 10, 0.29, 2),
        (3, 10, 0.29, 2),  # 2.9 images are 2
        (1, 10, 0.01, 1),  # one of a small shard may always be bad
        (2, 10, 0.01, 1),
        (0, 10, 0.0, 0),
        (1, 10, 0.0, 0),  # but none is none
        (29, 50, 0.58, 29),  # to a computer, 0.58 * 50 is less than 29
        (30, 50, 0.58, 29),
    ],
)
def test_unreadable_images_are_bounded_shard_by_shard(tmp_path, bad, of, max_bad, allowed):
    samples = list(Scenes(2 * of, size=32).read("train-000000"))
    samples[of : of + bad] = [s._replace(image=b"no image") for s in samples[of : of + bad]]
    pack(samples, tmp_path / "bad", max_images=of)
    settings, folder = SETTINGS | {"max_bad": max_bad}, tmp_path / "boxes"
    if bad <= allowed:
        box_set = compute_boxes(open_source(tmp_path / "bad"), localizer(), folder, **settings)
        assert box_set.manifest.statistics.counts["unreadable"] == bad
        return
    told = rf"{bad} of the {of} .*{samples[of].key}.*at most {allowed}"
    with pytest.raises(CcropError, match=told):
        compute_boxes(open_source(tmp_path / "bad"), localizer(), folder, **settings)
    assert [path.name for path in folder.rglob("*.*")] == ["data-000000.parquet"]


@pytest.mark.parametrize("ranks", [Ranks(0, 1), Ranks(1, 2)])
def test_keys_that_start_again_are_found_before_any_work(source, tmp_path, ranks):
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    shutil.copy(tars[0], tars[0].with_name("zzz.tar"))
    with pytest.raises(SourceError, match=r"is in .*and in .*zzz\.tar.*--keys shard/key"):
        compute_boxes(
            open_source(tmp_path / "tars"), localizer(), tmp_path / "b", ranks=ranks, **SETTINGS
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("ranks", [Ranks(0, 1), Ranks(1, 2)])
@pytest.mark.parametrize("other", ["renamed", "fewer", "more", "form"])
def test_nothing_is_computed_beside_the_boxes_of_other_images(
    source, tmp_path, other, ranks, complete
):
    folder = tmp_path / "boxes"
    compute_boxes(source, localizer(), folder, **SETTINGS)
    if not complete:
        (folder / "manifest.json").unlink()
        (folder / f"data/{source.shards[1]}.parquet").unlink()
    before, settings = contents(folder), dict(SETTINGS)
    if other == "form":
        settings["form"] = "webdataset"
    else:
        shutil.copytree(tmp_path / "tars", tmp_path / "more")
        tars = sorted((tmp_path / "more").glob("*.tar"))
        if other == "renamed":
            for tar in tars:
                tar.rename(tar.with_name(f"of-{tar.name}"))
        elif other == "fewer":
            tars[0].unlink()
        else:
            pack([Sample("other", b"no image", None)], tmp_path / "other")
            shutil.copy(tmp_path / "other/data-000000.tar", tmp_path / "more/zzz.tar")
        source = open_source(tmp_path / "more")
    with pytest.raises(BoxSetError, match=r"made in another way|B010") as caught:
        compute_boxes(source, localizer(), folder, ranks=ranks, **settings)
    assert "choose another folder" in str(caught.value)
    assert contents(folder) == before


def test_a_set_begun_without_heatmaps_is_not_gone_on_with_them(source, tmp_path):
    folder = tmp_path / "boxes"
    compute_boxes(source, localizer(), folder, **SETTINGS, heatmaps=False)
    (folder / "manifest.json").unlink()
    (folder / f"data/{source.shards[1]}.parquet").unlink()
    before = contents(folder)
    with pytest.raises(BoxSetError, match=r"shards without heatmaps.*would be with"):
        compute_boxes(source, localizer(), folder, **SETTINGS)
    assert contents(folder) == before
    assert compute_boxes(source, localizer(), folder, **SETTINGS, heatmaps=False)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_shard_that_cannot_be_written_ends_the_computation(source, tmp_path, number):
    folder = tmp_path / "boxes"
    taken = folder / "data" / f"{source.shards[number]}.parquet"
    taken.mkdir(parents=True)
    with pytest.raises(CcropError, match=f"{taken.name} is already there"):
        compute_boxes(source, localizer(), folder, **SETTINGS)
    # No later shard is written, as if nothing had been wrong.
    assert len([path for path in folder.rglob("*.parquet") if path.is_file()]) == number


def test_an_empty_shard_has_no_boxes(source, tmp_path):
    shutil.copytree(tmp_path / "tars", tmp_path / "more")
    tarfile.open(tmp_path / "more/zzz.tar", "w").close()
    box_set = compute_boxes(
        open_source(tmp_path / "more"), localizer(), tmp_path / "boxes", **SETTINGS
    )
    assert len(box_set.read("zzz")) == 0
    assert box_set.manifest.rows == len(source.index())
    assert not validate(box_set.folder)


@pytest.mark.slow
def test_the_pixels_of_a_shard_are_not_held_until_it_ends(tmp_path):
    size, images = 256, 200  # 39 MB of pixels in one shard, in batches of 1.6 MB
    pack(Scenes(images, size=32), tmp_path / "tars")
    source, held = open_source(tmp_path / "tars"), []

    class Watch(Observer):
        def images_done(self, images, shard="", stages=None):
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        settings = {"batch_size": 8, "threads": 1, "observer": Watch()}
        compute_boxes(source, localizer(size=size), tmp_path / "boxes", **settings)
    finally:
        tracemalloc.stop()
    assert len(held) == images / 8
    assert max(held[-5:]) - max(held[2:7]) < 8e6
