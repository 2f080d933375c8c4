"""The Python of the README, run as it is written, in a folder that has what it names."""

import re
import shutil
from pathlib import Path

import pytest

import ccrop_pipeline as ccrop
from ccrop_pipeline.images import Scenes

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.S
)
COUNT = 70
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs in photos/, packed in data/photos; boxes and a run are made by the README."""
    place = tmp_path_factory.mktemp("readme")
    scenes = Scenes(COUNT, size=48)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        path = place / f"photos/{'cats' if number % 2 else 'dogs'}/{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    ccrop.pack(ccrop.open_source(place / "photos"), place / "data/photos")
    return place


@pytest.fixture(scope="module")
def names(place):
    """What each block defines; they are run in their order."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for block in BLOCKS:
            found.append({})
            exec(block, found[-1])
            if len(found) == 1:  # README's commands make this one
                shutil.copytree("boxes/python", "boxes/first")
    return found


def test_the_pipeline(names, place):
    assert len(names) == 3
    assert names[0]["boxes"].folder == Path("boxes/python")
    assert ccrop.validate(place / "boxes/python") == []
    assert (place / "runs/python/checkpoint.pt").is_file()


def test_groups_of_views(names):
    assert names[1]["epoch"] == 1
    assert names[1]["two"].shape == (2, 64, 3, 224, 224)
    assert names[1]["six"].shape == (6, 64, 3, 96, 96)
    assert names[1]["loader"].state_dict()["epoch"] == 2


def test_a_crop_of_ones_own_loop(names):
    assert names[2]["first"].size == names[2]["second"].size == (224, 224)
