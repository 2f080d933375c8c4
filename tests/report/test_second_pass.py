"""Boxes beside what a model finds in windows of their images; the model sees what is bright."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.fixed import write_boxes
from ccrop_pipeline.images import Sample, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer
from ccrop_pipeline.report import audit
from ccrop_pipeline.report.second_pass import look_again

N, SIDE = 100, 64
MODEL = """
import torch
from ccrop_pipeline.localize import Encoder
def bright():
    net = torch.nn.Sequential(torch.nn.AvgPool2d(8))
    return Encoder(net, "0", 64, mean=(0, 0, 0), std=(1, 1, 1), name="bright")
"""


def encoder(*layers: torch.nn.Module, epoch: int | None = None) -> Encoder:
    net = torch.nn.Sequential(torch.nn.AvgPool2d(8), *layers)
    colours = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    return Encoder(net, str(len(layers)), SIDE, **colours, name="bright", epoch=epoch)


def rectangles() -> np.ndarray:
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.25, 0.6, (N, 2))
    corners = rng.uniform(0, 1 - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bright") / "tars"
    samples = []
    for number, box in enumerate(rectangles()):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        x0, y0, x1, y1 = (box * SIDE).round().astype(int)
        pixels[y0:y1, x0:x1] = 200
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        samples.append(Sample(f"{number:03d}", data.getvalue(), None))
    pack(samples, folder, max_images=60)
    return open_source(folder)


def given(source, folder, boxes: np.ndarray) -> BoxSet:
    return write_boxes(
        source, folder, rule="given", place=lambda key, _header: boxes[int(key)][None]
    )


@pytest.fixture(scope="module")
def computed(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed") / "b"
    return compute_boxes(source, Localizer(encoder()), folder)


def test_it_is_what_was_recorded_when_the_rule_set_itself(source, computed):
    found, again = audit(computed), look_again(computed, source, encoder())
    assert (again.images, again.model, found.agreement.images) == (N, None, N)
    assert again.kappa == pytest.approx(found.agreement.kappa, abs=1e-3)
    assert again.freedom == pytest.approx(found.agreement.freedom, abs=1e-3)
    assert found.verdict == audit(computed, agreement=again).verdict == "follow the image"


def test_a_threshold_that_was_given_is_looked_at_again(source, computed, tmp_path):
    made = computed.manifest.provenance.localizer
    rule = BoxRule(made.threshold, mean_share=made.mean_share)
    box_set = compute_boxes(source, Localizer(encoder(), rule=rule), tmp_path / "b")
    assert audit(box_set).agreement is None
    assert audit(box_set).verdict == "cannot tell"
    again = look_again(box_set, source, encoder())
    assert again == look_again(computed, source, encoder())
    assert audit(box_set, agreement=again).verdict == "follow the image"


def test_given_boxes_are_told_from_those_of_other_images(source, tmp_path):
    true = given(source, tmp_path / "true", rectangles())
    assert audit(true).verdict == "cannot tell"
    again = look_again(true, source, encoder())
    assert again.kappa > 0.9
    assert again.model > 0.3
    assert audit(true, agreement=again).verdict == "follow the image"
    shuffled = given(source, tmp_path / "shuffled", np.roll(rectangles(), 1, axis=0))
    found = audit(shuffled, agreement=look_again(shuffled, source, encoder()))
    assert abs(found.agreement.kappa) < 0.2
    assert found.verdict == "carry nothing of the image"
    assert "no nearer" in found.warning
    assert found.own == pytest.approx(1 - found.spread.median_iou)


def test_a_model_that_finds_nothing_condemns_no_boxes(source, tmp_path):
    true = given(source, tmp_path / "true", rectangles())
    again = look_again(true, source, encoder(_Corner()))
    assert again.model < 0.15
    found = audit(true, agreement=again)
    assert (found.verdict, found.warning) == ("cannot tell", None)
    assert "no measure" in found.reason


class _Corner(torch.nn.Module):
    """The same heat in every image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        falling = torch.linspace(1, 0, x.shape[-1])
        return x * 0 + falling * falling[:, None]


def test_a_model_of_random_weights_is_no_measure_and_its_boxes_carry_little(
    source, computed, tmp_path
):
    shuffled = given(source, tmp_path / "shuffled", np.roll(rectangles(), 1, axis=0))
    found = audit(shuffled, agreement=look_again(shuffled, source, encoder(epoch=0)))
    assert found.agreement.model > 0.3
    assert found.verdict == "cannot tell"
    assert "no measure: its weights are random" in found.reason
    own = audit(computed, agreement=look_again(computed, source, encoder(epoch=0)))
    assert (own.verdict, own.agreement.model) == ("carry little of the image", None)
    assert "weights of the encoder are random" in own.reason


def test_between_chance_and_certainty_it_cannot_tell(source, tmp_path):
    true = given(source, tmp_path / "true", rectangles())
    again = look_again(true, source, encoder())
    for kappa, verdict in (
        (0.21, "follow the image"),
        (0.19, "cannot tell"),
        (0.09, "carry nothing of the image"),
    ):
        assert audit(true, agreement=replace(again, kappa=kappa)).verdict == verdict


def test_other_colours_make_another_model(source, computed):
    other = replace(encoder(), mean=(0.2, 0.2, 0.2))
    assert look_again(computed, source, other).model is not None


def test_boxes_of_another_model_are_looked_at_as_given_ones(source, computed):
    other = encoder(torch.nn.Conv2d(3, 3, 1))
    assert look_again(computed, source, other).model is not None


def test_images_without_a_box_are_refused_and_few_say_nothing(source, computed, tmp_path):
    few = tmp_path / "few"
    pack([*source.read(source.shards[0])][:31], few)
    assert look_again(computed, open_source(few), encoder()) is None
    strange = tmp_path / "strange"
    pack([s._replace(key=f"x{s.key}") for s in source.read(source.shards[0])], strange)
    with pytest.raises(CcropError, match="have no box"):
        look_again(computed, open_source(strange), encoder())


def test_the_command_takes_images_and_a_model_and_draws_the_heat(source, computed, tmp_path):
    run = CliRunner().invoke
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    line = ["boxes", "audit", str(computed.folder)]
    result = run(cli, [*line, "--model", f"{model}:bright"])
    assert (result.exit_code, "give SOURCE and --model together" in result.stderr) == (2, True)
    again = [*line, str(source.location), "--model", f"{model}:bright", "--device", "cpu"]
    picture = tmp_path / "mean.png"
    result = run(cli, [*again, "--recipe", "cifar10-simclr-2core", "--heatmap", str(picture)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "verdict     follow the image"
    assert f"on {N} images" in result.stdout
    mean = audit(computed).heat.mean
    with Image.open(picture) as drawn:
        assert drawn.size == (256, 256)
        corner = drawn.getpixel((16, 16))
    assert corner == (round(mean[0][0] * 255),) * 3
    answer = json.loads(run(cli, [*again, "--json"]).stdout)
    assert answer["agreement"]["images"] == N
    assert answer["heat"]["mean"] == [list(row) for row in mean]
    assert answer["windows"]["boxed"]["pair_iou"] > 0
    refused = run(cli, [*line, "--heatmap", str(model)])
    assert refused.exit_code == 1
    assert model.read_text() == MODEL
