"""What commands say of the sources that they read, when they end."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.images import Scenes, pack


def run(*line):
    result = CliRunner().invoke(cli, [str(part) for part in line])
    return result, result.stderr.splitlines()[-1]


@pytest.fixture
def photos(tmp_path):
    scenes = Scenes(9, size=32)
    for i, sample in enumerate(scenes.read(scenes.shards[0])):
        path = tmp_path / "photos" / ("cat" if i < 4 else "dog" if i < 8 else ".") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    (tmp_path / "photos/cat/note.txt").write_text("x")
    (tmp_path / "photos/gone.png").symlink_to("nowhere")
    pq.write_table(pa.table({"file_name": ["x"]}), tmp_path / "photos/metadata.parquet")
    return tmp_path / "photos"


def test_counts_of_images_classes_and_what_was_passed_over(photos, tmp_path):
    result, line = run("data", "pack", photos, tmp_path / "tars", "--json")
    (source,) = json.loads(result.stdout)["sources"]
    assert source == {
        "source": str(photos),
        "images": 9,
        "classes": {"cat": 4, "dog": 4},
        "unlabelled": 1,
        "ignored": {".txt": 1, ".parquet": 1, "broken links": 1},
        "ignored_first": {
            ".txt": ["cat/note.txt"],
            ".parquet": ["metadata.parquet"],
            "broken links": ["gone.png"],
        },
    }
    said = "9 images; 2 classes (cat 4, dog 4); 1 without a label; ignored 1 "
    assert line.startswith(f"{photos}: {said}")
    for command in (["boxes", "full"], ["boxes", "centre"]):
        result, other = run(*command, photos, tmp_path / command[1])
        assert (result.exit_code, other) == (0, line)
    result, other = run("boxes", "validate", tmp_path / "full", photos)
    assert (result.exit_code, other) == (0, line)
    (photos / "cat/0.jpg").write_bytes(b"other")
    result, other = run("boxes", "validate", tmp_path / "full", photos)
    assert (result.exit_code, other) == (1, line)


def test_of_a_wrong_source_ten_images_are_named_and_the_others_counted(tmp_path):
    for side in (32, 48):
        pack(Scenes(40, size=side), tmp_path / str(side))
    run("boxes", "full", tmp_path / "32", tmp_path / "boxes")
    line = ["boxes", "validate", tmp_path / "boxes", tmp_path / "48"]
    lines = run(*line)[0].stdout.splitlines()
    assert [text[:35] for text in lines[:10]] == ["B027  data-000000.parquet: the image"[:35]] * 10
    assert lines[10:] == ["B027  and 30 more", f"{tmp_path / 'boxes'}: 40 problems"]
    result, _ = run(*line, "--json")
    assert len(json.loads(result.stdout)) == 40


def test_tars_and_tables_tell_the_same(photos, tmp_path):
    run("data", "pack", photos, tmp_path / "tars")
    (tmp_path / "tars/README.md").write_text("x")
    result, _ = run("boxes", "full", tmp_path / "tars", tmp_path / "a", "--json")
    (source,) = json.loads(result.stdout)["sources"]
    counted = {name: source[name] for name in ("images", "classes", "unlabelled", "ignored")}
    assert counted == {
        "images": 9,
        "classes": {"cat": 4, "dog": 4},
        "unlabelled": 1,
        "ignored": {".md": 1},
    }
    images = pa.array([str(i).encode() for i in range(40)])
    labels = pa.array([None, *range(13), *range(26)])
    pq.write_table(pa.table({"img": images, "label": labels}), tmp_path / "t.parquet")
    _, line = run("data", "pack", tmp_path / "t.parquet", tmp_path / "b")
    assert line.endswith("t.parquet: 40 images; 26 classes of 1 to 2 images; 1 without a label")


def test_tars_that_are_read_in_order_are_counted_as_they_are_read(photos, tmp_path):
    run("data", "pack", photos, tmp_path / "tars", "--max-images", "4")
    address = f"file://{tmp_path}/tars/data-*.tar"
    commands = (
        ["data", "pack", address, tmp_path / "again"],
        ["boxes", "full", address, tmp_path / "boxes"],
        ["boxes", "validate", tmp_path / "boxes", address],
    )
    for command in commands:
        result, line = run(*command)
        assert result.exit_code == 0
        assert line == f"{address}: 9 images; 2 classes (cat 4, dog 4); 1 without a label"
    pipe = f"pipe:cat {tmp_path}/tars/data-000000.tar"
    result, line = run("data", "pack", pipe, tmp_path / "piped", "--json")
    (source,) = json.loads(result.stdout)["sources"]
    assert (source["images"], sum(source["classes"].values()) + source["unlabelled"]) == (4, 4)
    assert (source["shards"], source["shards_read"]) == (1, 1)


def test_of_tars_that_were_not_read_again_is_said_so(photos, tmp_path):
    run("data", "pack", photos, tmp_path / "tars", "--max-images", "4")
    address = f"file://{tmp_path}/tars/data-*.tar"
    run("boxes", "full", address, tmp_path / "boxes")
    (tmp_path / "boxes/manifest.json").unlink()
    (tmp_path / "boxes/data/data-000001.parquet").unlink()
    _, line = run("boxes", "full", address, tmp_path / "boxes")
    said = "counted in the 1 of 3 shards that this process has read to their end"
    assert line.startswith(f"{address}: 4 images; ")
    assert line.endswith(said)


def test_what_hinders_counting_is_said_once_the_work_is_done(photos, tmp_path):
    pack(photos, tmp_path / "tars")
    (tmp_path / "tars/classes.txt").write_bytes(b"caf\xe9\nb\n")
    result, line = run("boxes", "full", tmp_path / "tars", tmp_path / "full")
    assert result.exit_code == 0
    assert line.startswith(f"{tmp_path / 'tars'}: 9 images; 2 classes (0 4, 1 4); 1 without")
    assert "classes.txt is no list of class names" in line


def test_tars_are_counted_as_they_are_read_and_not_gone_through_again(photos, tmp_path):
    run("data", "pack", photos, tmp_path / "tars")
    shutil.copy(tmp_path / "tars/data-000000.tar", tmp_path / "tars/data-000001.tar")
    result, line = run("data", "pack", tmp_path / "tars", tmp_path / "b", "--keys", "shard/key")
    assert result.exit_code == 0  # together, the two have keys that come twice
    assert line.endswith("/tars: 18 images; 2 classes (cat 8, dog 8); 2 without a label")


def test_what_lets_links_be_followed_is_named_as_the_command_has_it(photos, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/cat").symlink_to(photos)
    said = "1 link out of the folder (cat)"
    result, line = run("data", "pack", tmp_path / "links", tmp_path / "tars")
    assert (result.exit_code, said in line) == (1, True)
    assert "links out of it are followed where --follow-links is set." in line
    result, line = run("boxes", "full", tmp_path / "links", tmp_path / "boxes")
    assert (result.exit_code, said in line) == (1, True)
    assert "followed where --follow-links of `ccrop data pack` is set." in line
    result, line = run("data", "pack", tmp_path / "links", tmp_path / "tars", "--follow-links")
    assert (result.exit_code, "links: 9 images" in line) == (0, True)
