import json
import re
import shutil

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.images import Scenes

MODEL = ("torchvision:resnet18", "--weights", "random", "--input-size", "32", "--device", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Scenes, 200 to train and 40 to test on, in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    scenes = Scenes(240, size=32)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        part = "train" if number < 200 else "test"
        path = folder / part / scenes.classes[sample.label] / f"{sample.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    return folder


def probe(photos, *arguments):
    where = [str(photos / part) for part in ("train", "test")]
    return CliRunner().invoke(cli, ["probe", MODEL[0], *where, *MODEL[1:], *arguments])


@pytest.mark.slow
def test_knn_is_the_default_and_prints_its_numbers_for_any_model(photos):
    result = probe(photos, "--k", "5", "--temperature", "0.07")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        r"kNN accuracy [\d.]+% after epoch 0 "
        r"\(k=5, temperature=0.07, layer4, 32 px, 200 train and 40 test images\)\n",
        result.stdout,
    )
    found = json.loads(probe(photos, "--k", "5", "--temperature", "0.07", "--json").stdout)
    assert f"{found['knn']:.2%}" in result.stdout
    assert (found["k"], found["temperature"], found["epoch"]) == (5, 0.07, 0)
    assert (found["train"], found["test"], found["layer"]) == (200, 40, "layer4")


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), ("--linear",), ("--augmented", "--epochs", "1")])
def test_images_that_cannot_be_decoded_are_named(photos, tmp_path, way):
    shutil.copytree(photos / "test", tmp_path / "test")
    first = sorted((tmp_path / "test").rglob("*.jpg"))[0]
    first.write_bytes(b"no image")
    where = [str(photos / "train"), str(tmp_path / "test")]
    said = CliRunner().invoke(cli, ["probe", MODEL[0], *where, *MODEL[1:], *way]).stderr
    key = first.relative_to(tmp_path / "test").as_posix()
    assert f"Warning: 1 image cannot be decoded, shown as grey or left out: {key} (" in said


@pytest.mark.slow
def test_no_more_neighbours_are_reported_than_could_vote(photos):
    result = probe(photos, "--k", "201", "--json")
    assert json.loads(result.stdout)["k"] == 200
    assert "Warning: --k is 201, but only 200 images can answer" in result.stderr
    assert "--k is" not in probe(photos, "--k", "200").stderr
    unasked = probe(photos)
    assert "(k=20, temperature" in unasked.stdout
    assert "--k is" not in unasked.stderr


@pytest.mark.slow
def test_another_layer_is_probed_when_it_is_named(photos):
    found = json.loads(probe(photos, "--layer", "layer2", "--json").stdout)
    assert found["layer"] == "layer2"
    assert found["knn"] != json.loads(probe(photos, "--json").stdout)["knn"]


@pytest.mark.slow
def test_the_linear_probe_says_what_it_chose_and_on_what(photos):
    result = probe(photos, "--linear")
    assert result.exit_code == 0, result.output
    found = json.loads(probe(photos, "--linear", "--json").stdout)
    accuracy = f"linear accuracy {found['linear']:.2%} after epoch 0"
    assert f"{accuracy} (whole images, layer4, 32 px, 200 train" in result.stdout
    assert f"chosen on {found['validation_images']} of the train images" in result.stdout
    assert 5 < found["validation_images"] < 40
    assert found["validation"] == dict(found["tried"])[found["penalty"]]
    assert found["validation"] == max(accuracy for _, accuracy in found["tried"])
    assert len(found["tried"]) == 13


@pytest.mark.slow
def test_the_augmented_probe_takes_the_rates_that_are_given(photos):
    line = ("--augmented", "--epochs", "2", "--rate", "0.1", "--rate", "1", "--json")
    result = probe(photos, *line)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [rate for rate, _ in found["tried"]] == [0.1, 1]
    assert found["epochs"] == 2
    assert "at the end of those tried" in result.stderr  # of two, either is


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Images whose classes have been drawn by lot: nothing can be learnt of them."""
    folder = tmp_path_factory.mktemp("noise")
    drawn = np.random.default_rng(0)
    for number in range(240):
        path = folder / f"class{drawn.integers(3)}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", [("--k", "1"), ("--linear",)])
@pytest.mark.parametrize("twice", [False, True])
def test_no_image_is_asked_about_itself(noise, way, twice):
    line = ["probe", MODEL[0], *[str(noise)] * (1 + twice), *MODEL[1:], *way, "--json"]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["train"] + found["test"] == 240
    assert f"{found['test']} of the 240 images" in result.stderr
    # Four standard deviations above chance.
    assert found.get("knn", found.get("linear")) < 1 / 3 + 4 * (2 / 9 / found["test"]) ** 0.5


def test_sources_with_other_classes_are_refused(photos, tmp_path):
    (tmp_path / "train").symlink_to(photos / "train")
    (tmp_path / "test").mkdir()
    first = sorted((photos / "test").iterdir())
    for folder in first[1:]:
        shutil.copytree(folder, tmp_path / "test" / folder.name)
    result = probe(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"label 0 is {first[0].name!r}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--linear", "--augmented"), "not both"),
        (("--linear", "--k", "5"), "--k belongs to the probe kNN"),
        (("--rate", "5"), "--rate belongs to the probe --augmented"),
        (("--k", "0"), "--k"),
    ],
)
def test_options_that_do_not_go_together_are_bad_usage(photos, arguments, message):
    result = probe(photos, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
