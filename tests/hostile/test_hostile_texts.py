"""Damaged files end in one message that names them; the long run is `make hostile`."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hostile_texts import KINDS, verdicts
from PIL import Image

from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.exchange import (
    read_coco,
    read_csv,
    read_cvat,
    read_masks,
    read_npz,
    read_yolo,
)
from ccrop_pipeline.images import open_source
from ccrop_pipeline.recipes import load_recipe, make_plan


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each_kind_are_taken_or_refused(kind):
    assert set(verdicts(kind, range(10))) <= {"taken", "refused"}


def test_nesting_and_numbers_that_python_cannot_follow_are_no_coco(tmp_path):
    file = tmp_path / "boxes.json"
    image = '{"images": [{"id": 1, "file_name": "a", "width": %s, "height": 9}], "annotations": []}'
    # The last is a number for JSON, and infinite.
    for text in ("[" * 100_000, image % ("9" * 5_000), image % "1e999", image % -40):
        file.write_text(text)
        with pytest.raises(CcropError, match=r"boxes\.json is no COCO detection file") as caught:
            read_coco(file)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_damage(encoding, tmp_path):
    boxes = {"images": [{"id": 1, "file_name": "é"}], "annotations": []}
    (tmp_path / "a.json").write_bytes(json.dumps(boxes, ensure_ascii=False).encode(encoding))
    assert read_coco(tmp_path / "a.json").names == ["é"]


def header(shape, kind):
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a": header("(1000000000000, 4)", "'<f8'")}, "does not fit into the file"),
        ({"a": header("(-1, 4)", "'<f8'")}, "does not fit into the file"),
        ({"a": header("((" * 50, "'<f8'")}, "is no archive of boxes"),
        ({"a": header("(1, 4)", "'|O'") + b"cposix\nsystem\n"}, "no object is loaded"),
        ({"a": b"text"}, "is no archive of boxes"),
        ({"keys": np.array(["a"]), "boxes": np.full((1, 4), 1j)}, "neither numbers nor text"),
        (
            {"keys": np.array(["a"]), "boxes": np.zeros((1, 4)), "status": np.array(["ok", "ok"])},
            "status is",
        ),
        ({"a": bytes(300_000_000)}, "unpacked it would be 300,000,000 bytes"),
    ],
)
def test_an_archive_is_believed_only_what_the_file_has(members, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "boxes.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                file = io.BytesIO()
                np.save(file, content)
                content = file.getvalue()
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(CcropError, match=said) as caught:
        read_npz(tmp_path / "boxes.npz")
    assert "boxes.npz" in str(caught.value)


def test_a_table_of_nothing_is_named(tmp_path):
    (tmp_path / "boxes.csv").write_text("key,x_min,y_min,x_max,y_max\n")
    np.savez(tmp_path / "boxes.npz")
    for read, name in ((read_csv, "boxes.csv"), (read_npz, "boxes.npz")):
        with pytest.raises(CcropError, match=f"{name} names no image"):
            read(tmp_path / name)


def test_a_line_without_a_key_and_text_in_another_encoding_are_no_table(tmp_path):
    edges = "x_min,y_min,x_max,y_max"
    for data in (f"key,{edges}\n\xe9,0,0,1,1\n".encode("latin-1"), f"{edges}\n0,0,1,1".encode()):
        (tmp_path / "boxes.csv").write_bytes(data)
        with pytest.raises(CcropError, match=r"boxes\.csv is no table of boxes"):
            read_csv(tmp_path / "boxes.csv")


def test_labels_and_masks_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    (tmp_path / "a.txt").write_bytes(b"0 .5 .5 .\xe9 .2")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    labels = read_yolo(tmp_path)
    assert labels.names == ["a"]
    with pytest.raises(CcropError, match=r"a\.txt is no label file"):
        labels.read("a")
    assert read_masks(tmp_path).names == ["a.png"]


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "GIF", "BMP"])
def test_a_mask_is_a_png_whatever_its_name(kind, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png", kind)
    with pytest.raises(CcropError, match=r"a\.png cannot be decoded as a mask \(it is no such"):
        read_masks(tmp_path).read("a.png")


def test_a_mask_of_a_billion_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (40_000, 4_000)).save(tmp_path / "a.png")
    with pytest.raises(CcropError, match="160000000 pixels"):
        read_masks(tmp_path).read("a.png")


@pytest.mark.parametrize(
    "text",
    [
        "epochs = " + "9" * 5_000,
        "a = " + "[" * 5_000,
        "a." * 5_000 + "b = 1",
        "day = 2026-99-99",
        "epochs = 0x" + "f" * 5_000,
        "backbone = \udcff",
        "extends = " + repr("a" * 5_000),
        'extends = "\\u0000"',
        "extends = 3",
    ],
    ids=range(9),
)
def test_what_is_no_recipe_gets_one_short_message(text, tmp_path):
    file = tmp_path / "own.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingError) as caught:
        load_recipe(str(file))
    assert len(str(caught.value)) < 1_000


def test_long_chains_and_circles_of_recipes_are_refused(tmp_path):
    for number in range(1_500):
        (tmp_path / f"r{number}.toml").write_text(f'extends = "r{number + 1}.toml"')
    (tmp_path / "r1500.toml").write_text("epochs = 3")
    with pytest.raises(SettingError, match="20 times and more"):
        load_recipe(str(tmp_path / "r0.toml"))
    assert load_recipe(str(tmp_path / "r1490.toml")).epochs == 3
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(SettingError, match="circle"):
        load_recipe(str(tmp_path / "circle"))


@pytest.mark.parametrize(
    "setting",
    [
        "epochs=1000000000",
        "epochs=" + "9" * 5_000,
        "batch_size=1000000000000",
        "image_size=4000000",
        "eval_size=4000000",
        "local_views.count=1000000",
        "local_views.size=1000000",
        "method.queue_size=1000000000000",
        "method.projection_dim=1000000000",
        "method.temperature=1e300",
        "optimizer.lr=1e300",
        "optimizer.weight_decay=1e300",
        "augment.brightness=1e300",
        "augment.blur_sigma=[1e300, 1e300]",
        "crop.ratio=[1e-300, 1e300]",
        "probe.k=1000000000000",
    ],
)
def test_absurd_settings_are_refused_before_a_run_begins(setting):
    with pytest.raises(SettingError, match=setting.partition("=")[0].rpartition(".")[2]):
        make_plan(load_recipe("demo", [setting]))


@pytest.mark.parametrize("size", [4_000_000, -1, 7, 10**5000], ids=range(4))
def test_a_model_sees_no_images_of_absurd_sizes(size):
    from ccrop_pipeline.models import open_encoder

    with pytest.raises(SettingError, match=r"`input_size` is .* from 8 to 4096"):
        open_encoder("torchvision:resnet18", weights="random", input_size=size)


def test_class_names_in_another_encoding_are_named_with_file_and_byte(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    import tarfile

    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\nb\n")
    with pytest.raises(CcropError, match=r"classes\.txt is no list of class names .*0xe9 in pos"):
        _ = open_source(tmp_path / "s.tar").classes


def test_entities_endless_tags_and_depths_are_no_cvat(tmp_path):
    """Refused before anything is expanded or fetched."""
    (tmp_path / "secret").write_text("secret")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    image = '<image name="%s" width="9" height="9"></image>'
    texts = {
        f'<!DOCTYPE a [<!ENTITY l0 "lol">{laughs}]><annotations>&l11;</annotations>': "DOCTYPE",
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
        "<annotations>&x;</annotations>": "DOCTYPE",
        '<!DOCTYPE a SYSTEM "http://192.0.2.1/a.dtd"><annotations/>': "DOCTYPE",
        f"<annotations>{image % ('x' * 3_000_000)}</annotations>": "more than 1048576 bytes",
        f"<annotations><!--{'-x' * 1_500_000}--></annotations>": "more than 1048576 bytes",
        f"<annotations>{'<a>' * 100_000}": "nested more than 50 deep",
        f"<annotations>{image % '&unknown;'}</annotations>": "undefined entity",
        "<annotations>": "no element found",
        '<?xml version="1.0" encoding="utf-7"?><annotations/>': "multi-byte encodings",
        "": "no element found",
    }
    file = tmp_path / "annotations.xml"
    for text, said in texts.items():
        file.write_text(text)
        with pytest.raises(
            CcropError, match=rf"annotations\.xml is no CVAT file .*{said}"
        ) as caught:
            read_cvat(file)
        assert "secret" not in str(caught.value).replace(str(tmp_path), "")
        assert len(str(caught.value)) < 700
    # Much text and many elements are no attack.
    file.write_text(f"<annotations><meta>{'x' * 3_000_000}</meta>{image % 'a'}</annotations>")
    assert read_cvat(file).names == ["a"]
