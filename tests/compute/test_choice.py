"""How a box set comes to a rule that sets itself: once, for all who compute it."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from ccrop_cli.boxes_audit import show_result, warn_if_useless
from ccrop_cli.main import cli
from ccrop_cli.train_progress import TrainProgress
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.boxset import BoxSet, LocalizerInfo, RuleChoice, validate, write_manifest
from ccrop_pipeline.compute import choice, compute_boxes
from ccrop_pipeline.compute.choice import some_of, squares
from ccrop_pipeline.compute.ray_engine import _Worker
from ccrop_pipeline.compute.rethreshold import rethreshold
from ccrop_pipeline.errors import BoxSetError, CcropError
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Sample, Scenes, image_hash, open_source, pack
from ccrop_pipeline.images.squares import resize_to_square
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone, rule_of
from ccrop_pipeline.localize.rule_choice import choose_rule, draw_windows
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.recipes.plan import make_plan
from ccrop_pipeline.report import audit, report_boxes

SETTINGS = {"batch_size": 16, "threads": 1}
REST = {"heatmaps": True, "form": "parquet", "max_bad": 1.0}


def localizer(rule: BoxRule | None = None, seed: int = 0) -> Localizer:
    torch.manual_seed(seed)
    backbone = build_backbone("small")
    return Localizer(Encoder(backbone, backbone.layer, 32, name="small"), "sum", rule or BoxRule())


class Heard(Observer):
    def __init__(self):
        self.chosen, self.warnings = 0, []

    def choosing(self):
        self.chosen += 1

    def warning(self, note):
        self.warnings.append(note)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice") / "tars"
    samples = [*Scenes(48, size=40).read("train-000000")]
    samples.insert(4, Sample("bad", b"\xff\xd8broken", None))
    pack(samples, folder, max_images=20)
    return open_source(folder)


@pytest.fixture(scope="module")
def computed(source, tmp_path_factory):
    return compute_boxes(source, localizer(), tmp_path_factory.mktemp("boxes") / "b", **SETTINGS)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def info(box_set: BoxSet) -> LocalizerInfo:
    assert box_set.manifest.provenance.localizer is not None
    return box_set.manifest.provenance.localizer


def test_the_rule_is_that_of_heatmaps_of_images_and_windows(source, computed):
    """Recomputed one by one, with nothing of the pipeline."""
    found, made = info(computed), localizer()
    heat, cuts, windows = [], [], []
    for shard in source.shards:
        for sample in source.read(shard):
            pair = squares(sample, 32)
            if pair is None:
                assert sample.key == "bad"
                continue
            maps = made.heatmaps(torch.from_numpy(pair[0].transpose(0, 3, 1, 2).copy()))
            heat.append(maps[0].numpy())
            cuts.append(maps[1:].numpy())
            windows.append(pair[1])
    rule, expected = choose_rule(BoxRule(), np.stack(heat), np.stack(cuts), np.stack(windows), 32)
    assert (found.choice.images, len(found.choice.kappa)) == (48, 20)
    assert rule_of(found) == rule
    for name in ("kappa", "freedom", "mean_area"):
        assert getattr(found.choice, name) == pytest.approx(getattr(expected, name), abs=2e-3)
    assert validate(computed.folder) == []
    assert not [path for path in computed.folder.iterdir() if path.name.startswith(".")]


def test_boxes_are_those_of_the_same_rule_given(source, computed, tmp_path):
    given = compute_boxes(source, localizer(rule_of(info(computed))), tmp_path / "b", **SETTINGS)
    assert info(given).choice is None
    assert info(given) == replace(info(computed), choice=None)
    for (_, ours), (_, theirs) in zip(computed.tables(), given.tables(), strict=True):
        assert np.array_equal(ours.boxes, theirs.boxes)


def test_a_refresh_says_what_the_rule_came_to(computed, capsys):
    TrainProgress(make_plan(load_recipe("demo"))).refreshed(str(computed.folder), 1.0)
    said, made = " ".join(capsys.readouterr().err.split()), info(computed)
    kappa = made.choice.kappa[made.choice.threshold.index(made.threshold)]
    assert f"threshold {made.threshold:g} + 0.5 of the image's mean heat" in said
    assert f"set itself by 48 images, kappa {kappa:.2f}" in said


def test_squares_are_the_image_and_windows_of_it(source):
    sample = next(source.read(source.shards[0]))
    pixels, windows = squares(sample, 32)
    whole = np.empty((32, 32, 3), np.uint8)
    resize_to_square(sample.image, whole)
    assert np.array_equal(pixels[0], whole)
    assert np.array_equal(windows, draw_windows(image_hash(sample.key.encode())))
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == len(pixels)


def changed(left: Path) -> tuple[float, RuleChoice]:
    """Make what was left for others say something else, and return it."""
    (file,) = left.glob(".choice-*.json")
    plain = json.loads(file.read_text())
    plain["threshold"] = 0.45
    plain["choice"]["images"] = 777
    file.write_text(json.dumps(plain))
    return 0.45, 777


def test_processes_agree_on_the_choice_of_the_first(source, tmp_path):
    first, second = Heard(), Heard()
    folder = tmp_path / "b"
    ranks = [Ranks(rank, 2, started_by="arguments") for rank in range(2)]
    arguments = {**SETTINGS, "ranks": ranks[0], "observer": first}
    assert compute_boxes(source, localizer(), folder, **arguments) is None
    shutil.rmtree(folder / "data")  # as if it had got no further
    threshold, images = changed(folder)
    arguments = {**SETTINGS, "ranks": ranks[1], "observer": second}
    assert compute_boxes(source, localizer(), folder, **arguments) is None
    whole = compute_boxes(source, localizer(), folder, **SETTINGS, ranks=ranks[0])
    assert (first.chosen, second.chosen) == (1, 0)
    assert (info(whole).threshold, info(whole).choice.images) == (threshold, images)
    assert not list(folder.glob(".*"))


def test_whoever_chose_as_well_but_later_takes_what_the_first_left(source, tmp_path):
    folder = tmp_path / "b"

    class Overtaken(Observer):
        def choosing(self):
            interrupt(source, folder)
            changed(folder)

    made = compute_boxes(source, localizer(), folder, **SETTINGS, observer=Overtaken())
    assert (info(made).threshold, info(made).choice.images) == (0.45, 777)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        3,
        {"map": "attention"},
        {"input_size": 64},
        {"margin": 0.5},
        {"threshold": 1.0},
        {"threshold": 0.123},
        {"threshold": None, "mass": 0.5, "mean_share": 0.0},
        {"choice": None},
    ],
)
def test_what_no_choice_for_these_boxes_can_be_is_passed_over(source, computed, tmp_path, wrong):
    """Whoever left it: boxes made by one rule would say that they are another's."""
    folder, heard = tmp_path / "b", Heard()
    interrupt(source, folder)
    (file,) = folder.glob(".choice-*.json")
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(plain | wrong if isinstance(wrong, dict) else wrong))
    compute_boxes(source, localizer(), folder, **SETTINGS, observer=heard)
    assert heard.chosen == 1
    assert files(folder) == files(computed.folder)


def test_an_empty_folder_in_the_place_of_a_choice_goes_with_it(source, computed, tmp_path):
    folder = tmp_path / "b"
    interrupt(source, folder)
    (file,) = folder.glob(".choice-*.json")
    file.unlink()
    file.mkdir()
    compute_boxes(source, localizer(), folder, **SETTINGS)
    assert not file.exists()
    assert files(folder) == files(computed.folder)


class Interrupted(Observer):
    """Stops the work between the choice and the first shard."""

    def begun(self, shards, kept):
        raise KeyboardInterrupt


def interrupt(source, folder, **more):
    with pytest.raises(KeyboardInterrupt):
        compute_boxes(source, localizer(), folder, **SETTINGS, **more, observer=Interrupted())


def test_what_is_resumed_and_what_is_complete_keeps_its_rule(source, computed, tmp_path):
    folder, heard = tmp_path / "b", Heard()
    shutil.copytree(computed.folder, folder)
    for gone in ("manifest.json", "README.md", f"data/{source.shards[1]}.parquet"):
        (folder / gone).unlink()
    for _ in range(2):
        compute_boxes(source, localizer(), folder, **SETTINGS, observer=heard)
        assert files(folder) == files(computed.folder)
    assert heard.chosen == 0


def test_boxes_whose_rule_was_given_are_not_mixed_with_others(source, computed, tmp_path):
    folder = tmp_path / "b"
    compute_boxes(source, localizer(BoxRule(0.3)), folder, **SETTINGS)
    before = files(folder)
    with pytest.raises(BoxSetError, match=r"rule was given \(threshold 0\.3\)"):
        compute_boxes(source, localizer(), folder, **SETTINGS)
    assert files(folder) == before
    told = r"(?s)threshold: .* -> 0\.3.*choice: set itself \(\w{8}\) -> None\nRepeat"
    with pytest.raises(CcropError, match=told):
        compute_boxes(source, localizer(BoxRule(0.3)), computed.folder, **SETTINGS)
    with pytest.raises(CcropError, match="weights_sha256"):
        compute_boxes(source, localizer(seed=1), computed.folder, **SETTINGS)
    with pytest.raises(CcropError, match=r"margin: 0\.0 -> 0\.2"):
        compute_boxes(source, localizer(BoxRule(margin=0.2)), computed.folder, **SETTINGS)


def test_another_source_is_refused_before_a_rule_is_chosen(source, tmp_path):
    assert compute_boxes(source, localizer(), tmp_path / "b", ranks=Ranks(0, 2), **SETTINGS) is None
    before, heard = files(tmp_path / "b"), Heard()
    with pytest.raises(BoxSetError, match="none of these images"):
        compute_boxes(Scenes(40, size=40), localizer(), tmp_path / "b", observer=heard, **SETTINGS)
    assert heard.chosen == 0
    assert files(tmp_path / "b") == before


@pytest.mark.parametrize("partial", [True, False])
def test_boxes_of_no_model_are_refused_before_a_rule_is_chosen(source, tmp_path, partial):
    fixed_boxes(source, tmp_path / "b", "centre")
    if partial:
        for gone in ("manifest.json", f"data/{source.shards[1]}.parquet"):
            (tmp_path / "b" / gone).unlink()
    before, heard = files(tmp_path / "b"), Heard()
    with pytest.raises(BoxSetError, match=r"holds boxes that no model made \(centre\)"):
        compute_boxes(source, localizer(), tmp_path / "b", observer=heard, **SETTINGS)
    assert heard.chosen == 0
    assert files(tmp_path / "b") == before


def test_keys_that_tars_cannot_tell_apart_are_refused_before_a_rule_is_chosen(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("1.jpg", "1.png", "2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    source, heard = open_source(tmp_path / "photos"), Heard()
    settings = {**SETTINGS, "form": "webdataset", "observer": heard}
    with pytest.raises(BoxSetError, match=r"'1.jpg' and '1.png' would both be '1' in .*/b "):
        compute_boxes(source, localizer(BoxRule(0.3)), tmp_path / "b", **settings)
    assert not (tmp_path / "b").exists()
    (tmp_path / "photos/1.png").unlink()
    made = compute_boxes(open_source(tmp_path / "photos"), localizer(), tmp_path / "b", **settings)
    assert [row.key for row in made] == ["1", "2"]


def test_a_set_that_replaces_another_is_resumed_with_its_rule(source, tmp_path):
    folder, heard = tmp_path / "b", Heard()
    compute_boxes(source, localizer(BoxRule(0.3)), folder, **SETTINGS)
    arguments = {**SETTINGS, "overwrite": True, "observer": heard}
    interrupt(source, folder, overwrite=True)
    (aside,) = tmp_path.glob(".b.*.new")
    threshold, _ = changed(aside)
    assert info(compute_boxes(source, localizer(), folder, **arguments)).threshold == threshold
    assert heard.chosen == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_choice_that_was_left_is_no_stranger_to_overwriting(source, tmp_path):
    interrupt(source, tmp_path / "b")
    compute_boxes(source, localizer(), tmp_path / "b", **SETTINGS, overwrite=True)


def test_boxes_that_are_worth_nothing_are_told_once_a_time(source, tmp_path, capsys):
    torch.manual_seed(0)
    noisy = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), _Noise())
    encoder = Encoder(noisy, "1", 64, name="noise")
    heard, folder = Heard(), tmp_path / "b"
    for _ in range(2):
        box_set = compute_boxes(
            source, Localizer(encoder, "sum"), folder, **SETTINGS, observer=heard
        )
    assert info(box_set).choice.worthless
    assert info(box_set).centre_weight == 0.5
    middle = rethreshold(box_set, tmp_path / "middle", BoxRule(centre_weight=1.0))
    assert middle.read("data-000000").boxes[0] == pytest.approx([0.1, 0.1, 0.9, 0.9])
    again = rethreshold(box_set, tmp_path / "again", BoxRule())
    assert again.manifest.provenance == box_set.manifest.provenance
    assert heard.chosen == 1
    assert len(heard.warnings) == 2
    assert "carry nothing" in heard.warnings[0]
    warn_if_useless(box_set)
    show_result(box_set, as_json=False)
    out, err = capsys.readouterr()
    assert err == ""
    assert "verdict     carry nothing of the image\nbecause     boxes overlap one and" in out


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_a_centre_weight_that_is_given_is_kept_where_the_rest_sets_itself(source, tmp_path, weight):
    """By computing, going on, and another rule, whatever number of objects that has."""
    torch.manual_seed(0)
    noisy = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), _Noise())
    made = Localizer(Encoder(noisy, "1", 64, name="noise"), "sum", BoxRule(centre_weight=weight))
    box_set = compute_boxes(source, made, tmp_path / "b", **SETTINGS)
    assert info(box_set).choice.worthless
    assert info(box_set).centre_weight == weight
    again = rethreshold(box_set, tmp_path / "again", BoxRule())
    assert again.manifest.provenance == box_set.manifest.provenance
    for steps in (["--margin", 0.1], ["--objects", 2]):
        out = tmp_path / steps[0]
        command = ["boxes", "rethreshold", box_set.folder, out, *steps]
        assert CliRunner().invoke(cli, [*map(str, command)]).exit_code == 0
        found = BoxSet.open(out)
        assert (info(found).centre_weight, info(found).choice) == (weight, info(box_set).choice)
    page = report_boxes(box_set, source, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"--centre-weight {weight}" in page
    (tmp_path / "b/manifest.json").unlink()
    other = replace(made, rule=BoxRule(centre_weight=0.75))
    with pytest.raises(BoxSetError, match="centre_weight"):
        compute_boxes(source, other, tmp_path / "b", **SETTINGS)


def test_several_objects_are_not_moved_and_one_of_them_is_again(source, tmp_path):
    torch.manual_seed(0)
    noisy = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), _Noise())
    made = Localizer(Encoder(noisy, "1", 64, name="noise"), "sum", BoxRule(objects=2))
    several = compute_boxes(source, made, tmp_path / "several", **SETTINGS)
    one = rethreshold(several, tmp_path / "one", BoxRule())
    two = rethreshold(one, tmp_path / "two", BoxRule(objects=2))
    assert [info(each).centre_weight for each in (several, one, two)] == [0.0, 0.5, 0.0]
    assert two.manifest.provenance == several.manifest.provenance


class _Noise(torch.nn.Module):
    """Heat that depends on every pixel and on no place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            (torch.sin(x.double() * 1e5 + x.double().sum(dim=(1, 2, 3), keepdim=True) * 1e5))
            .float()
            .abs()
        )


def test_at_an_address_nothing_is_left_of_the_choice(source, computed, tmp_path):
    address = f"memory://{tmp_path.name}/boxes"
    made = compute_boxes(source, localizer(), address, **SETTINGS)
    assert made.manifest == computed.manifest
    store = fsspec.filesystem("memory")
    assert not [path for path in store.find(f"/{tmp_path.name}") if "/." in path]


def test_workers_of_a_cluster_take_the_choice_of_the_first(source, computed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker goes there, in a process of its own
    arguments = (source, localizer, tmp_path / "b", SETTINGS | REST, str(tmp_path))
    first, second = _Worker(*arguments), _Worker(*arguments)
    _, settled = first.provenance()
    for at, shard in enumerate(source.shards):
        (first, second)[at % 2].compute(shard, settled)
    write_manifest(tmp_path / "b", source.shards, settled)
    assert BoxSet.open(tmp_path / "b").manifest == computed.manifest


def test_few_images_have_the_rule_of_the_paper(tmp_path):
    pack(Scenes(31, size=40), tmp_path / "tars")
    heard = Heard()
    few = compute_boxes(tmp_path / "tars", localizer(), tmp_path / "b", **SETTINGS, observer=heard)
    assert (info(few).threshold, info(few).mean_share) == (0.1, 0.0)
    assert info(few).choice == RuleChoice(31, 2, worthless=False)
    assert heard.chosen == 0


def test_as_many_as_are_wanted_can_be_read(tmp_path, monkeypatch):
    """And copies count once, so that 40 of one image are too few and not alike by nature."""
    monkeypatch.setattr(choice, "_FEW", 36)
    made = [*Scenes(60, size=40).read("train-000000")]
    broken = [
        Sample(f"x{sample.key}", b"\xff\xd8broken%d" % at, None) for at, sample in enumerate(made)
    ]
    mixed = [one for pair in zip(broken[:30], made, strict=False) for one in pair] + made[30:]
    copies = [sample._replace(image=made[0].image) for sample in made[:40]]
    for name, samples, seen in (("mixed", mixed, 36), ("copies", copies, 1)):
        pack(samples, tmp_path / name, max_images=100)
        box_set = compute_boxes(
            tmp_path / name, localizer(), tmp_path / f"{name}-boxes", **SETTINGS
        )
        assert info(box_set).choice.images == seen
    found = audit(box_set)
    assert (found.verdict, found.warning) == ("cannot tell", None)
    assert "copies of 1" in found.reason


class Numbered:
    """A source of numbers in place of images, some of a shard."""

    random_access = True

    def __init__(self, kind: str, images: int, a_shard: int) -> None:
        self.kind, self.keys = kind, [f"{number:05d}" for number in range(images)]
        self._rows = {
            f"s{at:05d}": self.keys[at : at + a_shard] for at in range(0, images, a_shard)
        }
        self.shards, self.opened = tuple(self._rows), 0
        self.labels = np.full(images, -1)

    def read(self, of):
        if isinstance(of, int):
            return self.keys[of].encode()
        self.opened += 1
        return (Sample(key, key.encode(), None) for key in self._rows[of])

    def index(self):
        return self

    def __len__(self):
        return len(self.keys)


def test_images_are_spread_over_a_source():
    def keys(*of):
        samples = [*islice(*some_of(Numbered(*of)))]
        assert all(sample.image == sample.key.encode() for sample in samples)
        return [int(sample.key) for sample in samples]

    assert keys("folder", 2_000, 1_000) == [*range(0, 2_000, 8)]
    assert keys("tar", 300, 300) == [place * 300 // 200 for place in range(200)]
    assert keys("folder", 40_000, 10_000) == [*range(0, 40_000, 100)]
    assert keys("folder", 40, 10) == [*range(40)]
    # Others are not reached out of order: the first of 32 shards, of 48, and of all.
    spread = [place * 48 // 32 for place in range(32)]
    assert keys("tar", 4_800, 100) == [100 * at + i for at in spread for i in range(13)]
    assert keys("parquet", 600, 300) == [300 * at + i for at in range(2) for i in range(100)]
    assert keys("parquet", 4_000, 1_000) == [1_000 * at + i for at in range(4) for i in range(50)]
    assert keys("tar", 2_400, 300) == [300 * at + i for at in range(8) for i in range(38)]
    assert keys("tar", 0, 1) == []


@pytest.mark.parametrize("of", [("folder", 2_000, 1_000), ("tar", 2_400, 300), ("tar", 40, 20)])
def test_others_follow_in_the_place_of_those_that_are_of_no_use(of):
    source = Numbered(*of)
    samples, enough = some_of(source)
    every = [sample.key for sample in samples]
    assert len(set(every)) == len(every) == min(4 * enough, of[1])
    assert source.opened <= 1 + 4 * len(source.shards)


def test_a_shard_that_is_at_its_end_is_not_read_again():
    source = Numbered("tar", 40, 20)
    assert len([*some_of(source)[0]]) == 40
    assert source.opened == 1 + 2


def test_another_rule_of_stored_heatmaps_keeps_what_was_chosen(computed, tmp_path):
    wider = info(rethreshold(computed, tmp_path / "wider", BoxRule(margin=0.2)))
    assert wider == replace(info(computed), margin=0.2)
    other = info(rethreshold(computed, tmp_path / "other", BoxRule(0.3)))
    assert other == replace(info(computed), threshold=0.3, mean_share=0.0, choice=None)
    with pytest.raises(BoxSetError, match="none can set itself"):
        rethreshold(tmp_path / "other", tmp_path / "third", BoxRule())


def test_keys_that_start_again_are_refused_before_a_rule_is_chosen(source, tmp_path):
    (tmp_path / "tars").mkdir()
    for name in ("a", "b"):
        shutil.copy(source.paths[0], tmp_path / f"tars/{name}.tar")
    with pytest.raises(CcropError, match="keys must be unique"):
        compute_boxes(tmp_path / "tars", localizer(), tmp_path / "boxes")
    assert not (tmp_path / "boxes").exists()
