"""README and the quickstart, block by block as they stand, in a folder of photographs."""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

import ccrop_pipeline as ccrop
from ccrop_pipeline.images import Scenes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks_of(page):
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


# Added to commands, so that they take seconds and one CPU.
ADDED = {
    "boxes compute": "--device cpu --input-size 64",
    "train": "--device cpu --workers 0 --set image_size=32 --set epochs=1 --set probe.every=0",
}
INSTALL = ("make demo\n", "pip install '.[fast,jit]' timm\n")  # other tests and CI do both
COUNT = 70


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photographs alone, and a cache of Hugging Face with what README names."""
    timm, hub = pytest.importorskip("timm"), pytest.importorskip("huggingface_hub")
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("readme")
    scenes = Scenes(COUNT, size=48)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        path = place / f"photos/{('cats', 'dogs')[number % 2]}/{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    (name,) = set(re.findall(r"timm:(\w+)", README))
    network = timm.create_model(name)  # its weights are random
    cache = place / f"hub/models--{network.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (cache / "snapshots/0").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0")
    save_file(network.state_dict(), cache / "snapshots/0/model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.constants, "HF_HUB_CACHE", str(place / "hub"))
        patch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_every_block_runs_in_its_order(page, place, tmp_path):
    shown = {}
    shutil.copytree(place / "photos", tmp_path / "photos")
    with contextlib.chdir(tmp_path):
        for language, text in blocks_of(page):
            if language == "console":
                expect_printed(text)
            elif language == "python":
                exec(text, shown)
            else:
                assert (language, text) in {("bash", install) for install in INSTALL}
        if page == "README.md":
            image, label = shown["dataset"][0]
            assert (image.size, label) == ((224, 224), 0)
    assert ccrop.validate(tmp_path / "first/boxes") == []
    assert (tmp_path / "first/run/checkpoint.pt").is_file()
    assert (tmp_path / "first/boxes.html").is_file()
    assert shown["first"].shape == shown["second"].shape == (64, 3, 224, 224)


def test_the_quickstart_shows_the_same_in_both_languages():
    assert blocks_of("docs/quickstart.zh.md") == blocks_of("docs/quickstart.md")
    english, chinese = (
        sorted(re.findall(r"^#+ |(?<=\]\()(?!quickstart)[^)]+", text, re.M))  # headings and links
        for text in ((ROOT / f"docs/quickstart{of}.md").read_text() for of in ("", ".zh"))
    )
    assert english == chinese


def expect_printed(session):
    """Run a session; what a command prints has lines that begin as those shown, in their order."""
    for part in re.split(r"^\$ ", session.replace("\\\n", " "), flags=re.M)[1:]:
        line, *output = part.splitlines()
        words = shlex.split(line)[1:]
        added = next(
            (more for name, more in ADDED.items() if line.startswith(f"ccrop {name} ")), ""
        )
        done = CliRunner().invoke(cli, [*words, *added.split()])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        printed = iter(done.output.splitlines())
        for each in output:
            begins = " ".join(re.findall(r"[A-Za-z]+", each)[:1])
            assert each == "..." or any(begins in other for other in printed), f"{line}: {each}"


def test_readme_is_short_and_narrow():
    lines = README.splitlines()
    assert len(lines) < 200
    as_it_is = ("|", "first/run: ")  # tables, and what a command prints
    assert [line for line in lines if len(line) > 110 and not line.startswith(as_it_is)] == []
