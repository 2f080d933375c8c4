"""The measuring programs run, and what ours is measured against is what it claims to be."""

import io
import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.distributions import Beta
from torchvision.transforms import v2

from benchmarks.views.__main__ import main, run
from benchmarks.views.authors import Authors, official_window
from benchmarks.views.data import SOURCES, image_sets
from benchmarks.views.rivals import RIVALS, Lightly
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, CropParams, sample_windows
from ccrop_pipeline.images import Scenes, pack


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.1, 0.35, 0.5, 0.8)])
def test_the_authors_sampler_draws_windows_of_the_official_rule(alpha, box):
    n, width, height = 3000, 300, 200
    torch.manual_seed(0)
    beta = Beta(alpha, alpha)
    theirs = np.array([official_window((width, height), box, beta) for _ in range(n)])
    ours = sample_windows(
        np.tile(np.float32(box)[[1, 0, 3, 2]], (n, 1)),
        np.tile((width, height), (n, 1)),
        np.random.default_rng(1).random((n, UNIFORMS_PER_WINDOW)),
        CropParams("official", alpha),
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001


def test_the_authors_crop_is_pillows_bilinear_resize_of_the_window():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    image, authors = Image.fromarray(pixels), Authors(32, blur=False, complete=False)
    torch.manual_seed(0)
    crop = authors.crop(image, (0.2, 0.1, 0.9, 0.7))
    torch.manual_seed(0)
    top, left, height, width = official_window(image.size, (0.2, 0.1, 0.9, 0.7), authors.beta)
    cut = image.crop((left, top, left + width, top + height))
    assert np.array_equal(crop, cut.resize((32, 32), Image.Resampling.BILINEAR))


def test_lightly_draws_from_the_ranges_of_the_authors_settings():
    chain = Lightly(224, blur=True, complete=True).views[0].transform.transforms
    crop, jitter = chain[0], chain[4].transforms[0]
    assert isinstance(crop, v2.RandomResizedCrop)
    assert (crop.size, tuple(crop.scale)) == ((224, 224), (0.2, 1.0))
    assert chain[4].p == 0.8
    for name in ("brightness", "contrast", "saturation"):
        assert getattr(jitter, name) == pytest.approx((0.6, 1.4))
    assert jitter.hue == pytest.approx((-0.1, 0.1))
    assert (chain[6].prob, chain[6].sigmas) == (0.5, (0.1, 2))


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("complete", [False, True])
def test_a_rival_makes_two_different_views_of_a_jpeg_or_of_pixels(name, complete):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    make = RIVALS[name](32, blur=True, complete=complete)
    for image in (pixels, file.getvalue()):
        views = make(image, (0, 0, 1, 1))
        assert [view.shape for view in views] == [(3, 32, 32)] * 2
        assert {view.dtype for view in views} == {torch.float32 if complete else torch.uint8}
        assert not torch.equal(*views)


@pytest.mark.slow
def test_every_round_is_kept_and_shown_in_tables(tmp_path, capsys):
    for name in SOURCES:
        pack(Scenes(8, size=32 if "cifar" in name else 48), tmp_path / name)
    small_and_photographs = islice(image_sets(tmp_path, 2), 2)
    threads = torch.get_num_threads()
    results = run(small_and_photographs, rounds=1, workers=1, rows=100)
    torch.set_num_threads(threads)
    assert set(results) == {"machine", "loading", "stages", "sampler", "box_set"}
    assert len(results["loading"]) == 2 * 2 * 2
    for one in results["loading"]:
        assert set(one["seconds"]) == {*RIVALS, "ours"}
        assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in one["seconds"].values())
    (tmp_path / "out.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert main(["table", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out.count("\n| ") >= 12


def test_a_folder_without_the_images_is_refused(tmp_path, capsys):
    assert main(["run", str(tmp_path)]) == 1
    assert "cifar10-webdataset" in capsys.readouterr().err
