"""Hostile annotations, masks, recipes and class lists, by seed; counted by verdict.

The long run: `python tests/hostile/hostile_texts.py 3000`.
"""

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from damaging import changed, dumped, garbled, odd_text, written
from judging import counted, judged, main
from PIL import Image

from ccrop_pipeline.exchange import (
    import_boxes,
    read_coco,
    read_csv,
    read_cvat,
    read_fiftyone,
    read_label_studio,
    read_masks,
    read_npz,
    read_open_images,
    read_yolo,
)
from ccrop_pipeline.images import open_source
from ccrop_pipeline.recipes import load_recipe, make_plan

IMAGES = ("a.jpg", "c/b.jpg")


def _coco(rng: Random, folder: Path) -> Path:
    images = [
        {"id": n, "file_name": name, "width": 40, "height": 20} for n, name in enumerate(IMAGES)
    ]
    boxes = [{"id": n, "image_id": n % 2, "bbox": [1, 2.5, 8, 9], "iscrowd": 0} for n in range(4)]
    value: Any = {"images": images, "annotations": boxes, "categories": []}
    for _ in range(rng.randrange(3)):
        value = changed(rng, value)
    text = dumped(value, ensure_ascii=rng.random() < 0.5)
    return written(folder / "boxes.json", garbled(rng, text) if rng.random() < 0.5 else text)


def _cvat(rng: Random, folder: Path) -> Path:
    images = [
        [{"id": n, "name": name, "width": 40, "height": 20}, [_CVAT_BOX | {"label": "x"}] * 2]
        for n, name in enumerate(IMAGES)
    ]
    for _ in range(rng.randrange(3)):
        images = changed(rng, images)
    text = '<?xml version="1.0" encoding="utf-8"?>'
    if rng.random() < 0.1:
        text += '<!DOCTYPE a [<!ENTITY e "eeee"><!ENTITY f "&e;&e;">]>'
    text += "<annotations><version>1.1</version>"
    for image in images if isinstance(images, list) else []:
        with suppress(TypeError, ValueError, AttributeError):
            fields, boxes = image
            inner = "".join(_element(rng, "box", box) for box in boxes)
            text += _element(rng, "image", fields, inner)
    data = f"{text}</annotations>".encode("utf-8", "surrogatepass")
    return written(folder / "boxes.xml", garbled(rng, data) if rng.random() < 0.5 else data)


_CVAT_BOX = {"xtl": 1, "ytl": 2.5, "xbr": 9, "ybr": 11.5, "rotation": 0}


def _element(rng: Random, tag: str, fields: dict[str, Any], inner: str = "") -> str:
    if rng.random() < 0.05:
        tag = rng.choice(["polygon", "track", "box", "image", "a" * 9_999, "e:f"])
    texts = []
    for name, value in fields.items():
        text = quoteattr(value if isinstance(value, str) else dumped(value).decode())
        odd = rng.choice(["&e;", "&f;", "&#0;", "&#xd800;"])
        texts.append(f"{name}={text if rng.random() < 0.99 else repr(odd)}")
    return f"<{tag} {' '.join(texts)}>{inner}</{tag}>"


def _label_studio(rng: Random, folder: Path) -> Path:
    regions = [
        {
            "type": "rectanglelabels",
            "original_width": 40,
            "original_height": 20,
            "image_rotation": 0,
            "value": {"x": 2.5, "y": 10, "width": 20, "height": 45, "rotation": 30 * n},
        }
        for n in range(2)
    ]
    drawn = [{"result": regions, "was_cancelled": False, "created_at": "2026-01-01"}]
    addresses = ["/data/local-files/?d=a.jpg", "/data/upload/1/0a1b2c3d-b.jpg"]
    value: Any = [
        {"data": {"image": address}, "annotations": drawn, "predictions": drawn}
        for address in addresses
    ]
    for _ in range(rng.randrange(3)):
        value = changed(rng, value)
    text = dumped(value)
    return written(folder / "boxes.json", garbled(rng, text) if rng.random() < 0.4 else text)


def _fiftyone(rng: Random, folder: Path) -> Path:
    one = {"label": "x", "bounding_box": [0.1, 0.2, 0.4, 0.5], "confidence": 0.5}
    value: Any = {"classes": None, "labels": {"a": [one, one], "c/b": [one]}}
    for _ in range(rng.randrange(3)):
        value = changed(rng, value)
    text = dumped(value)
    return written(folder / "boxes.json", garbled(rng, text) if rng.random() < 0.4 else text)


def _open_images(rng: Random, folder: Path) -> Path:
    lines = [["ImageID", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"]]
    lines += [[name, "1", "0.1", "0.5", "0.2", "0.75", "0"] for name in ("a", "b") * 2]
    return _damaged_lines(rng, folder, lines)


def _csv(rng: Random, folder: Path) -> Path:
    lines = [["key", "x_min", "y_min", "x_max", "y_max", "status"]]
    lines += [[name, "0.1", "0.2", "0.5", "0.75", "ok"] for name in IMAGES * 2]
    return _damaged_lines(rng, folder, lines)


def _damaged_lines(rng: Random, folder: Path, lines: list[list[str]]) -> Path:
    for _ in range(rng.randrange(3)):
        line = rng.choice(lines)
        line[rng.randrange(len(line))] = str(
            odd_text(rng) if rng.random() < 0.7 else _number_text(rng)
        )
    text = "\n".join(",".join(line) for line in lines).encode("utf-8", "surrogatepass")
    return written(folder / "boxes.csv", garbled(rng, text) if rng.random() < 0.6 else text)


def _number_text(rng: Random) -> str:
    return rng.choice(
        ["1e308", "-1e308", "1e999", "inf", "nan", "-1", "9" * 400, "5e-324", "", " 1 "]
    )


def _yolo(rng: Random, folder: Path) -> Path:
    labels = folder / "labels"
    for name in IMAGES:
        words = [["0", ".5", ".5", ".2", ".3"] for _ in range(2)]
        for _ in range(rng.randrange(3)):
            line = rng.choice(words)
            line[rng.randrange(5)] = odd_text(rng) if rng.random() < 0.5 else _number_text(rng)
        text = "\n".join(map(" ".join, words)).encode("utf-8", "surrogatepass")
        path = labels / Path(name).with_suffix(".txt")
        written(path, garbled(rng, text) if rng.random() < 0.5 else text)
    written(labels / "classes.txt", b"\xff\xfe")
    return labels


def _npy(rng: Random, array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    data = file.getvalue()
    if rng.random() < 0.5:
        shapes = ["(10**9, 4)", "(1000000000000, 4)", "(-1, 4)", "(4.0, 4)", "(" + "(" * 200, "()"]
        kinds = [
            "'|O'",
            "'<U4000000000'",
            "'<f16'",
            "'|V8'",
            "'<M8[s]'",
            "[('a', '<f8')]",
            "'<c16'",
        ]
        old = data[data.index(b"{") : data.index(b"}") + 1]
        new = b"{'descr': %s, 'fortran_order': False, 'shape': %s, }" % (
            rng.choice([*kinds, str(array.dtype.descr[0][1]).join("''")]).encode(),
            rng.choice([*shapes, str(array.shape)]).encode(),
        )
        data = data[:8] + struct.pack("<H", len(new) + 1) + new + b"\n" + data[10 + len(old) :]
    return garbled(rng, data) if rng.random() < 0.3 else data


def _npz(rng: Random, folder: Path) -> Path:
    keys, boxes = np.array(IMAGES), np.tile([[0.1, 0.2, 0.5, 0.75]], (2, 1))
    arrays = (
        {"keys": keys, "boxes": boxes}
        if rng.random() < 0.5
        else dict(zip(IMAGES, boxes, strict=True))
    )
    for _ in range(rng.randrange(2)):
        name = rng.choice(list(arrays))
        odd = [np.array([{"a": 1}], object), np.zeros((0, 4)), np.zeros((3, 5)), np.array(5.0)]
        odd += [np.array(["x"]), np.array([b"a", b"b"]), np.zeros((2, 4), "M8[s]")]
        odd += [np.full((2, 4), value) for value in (np.nan, 1j, 1e308, -np.inf)]
        arrays[name] = rng.choice(odd)
    if rng.random() < 0.3:
        arrays["status"] = rng.choice(
            [np.array(["ok"]), np.array(["ok", "x"]), np.zeros((2, 2)), np.array(3)]
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice([0, 8])) as archive:
        warnings.simplefilter("ignore")  # names twice
        for name, array in arrays.items():
            member = name + rng.choice([".npy", ".npy", ".npy", "", "/"])
            archive.writestr(member, _npy(rng, array))
            if rng.random() < 0.05:
                archive.writestr(member, b"twice")
        if rng.random() < 0.02:  # a bomb
            archive.writestr("more.npy", bytes(300_000_000), 8)
    data = file.getvalue()
    return written(folder / "boxes.npz", garbled(rng, data) if rng.random() < 0.3 else data)


def _mask(rng: Random, width: int, height: int) -> bytes:
    mode = rng.choice(["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "F"])
    image = Image.new("L", (width, height))
    image.putpixel((0, 0), 255)
    file = io.BytesIO()
    kind = "PNG" if mode != "F" else rng.choice(["TIFF", "JPEG", "GIF", "BMP"])
    image.convert("L" if kind != "PNG" else mode).save(file, kind)
    return file.getvalue()


def _masks(rng: Random, folder: Path) -> Path:
    masks = folder / "masks"
    for name in IMAGES:
        data = _mask(rng, *rng.choice([(40, 20), (20, 40), (400, 200), (1, 1)]))
        if data.startswith(b"\x89PNG") and rng.random() < 0.5:  # a header that lies, its sum right
            head = bytearray(data[12:29])
            size = rng.choice([0, 1, 9_000, 13_000, 60_000, 2**31 - 1, 2**32 - 1])
            head[4:12] = struct.pack(">II", size, rng.choice([size, 1, 20]))
            if rng.random() < 0.3:
                head[12 + rng.randrange(5)] = rng.randrange(256)
            data = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
        path = masks / Path(name).with_suffix(".png")
        written(path, garbled(rng, data) if rng.random() < 0.6 else data)
    return masks


def _recipe(rng: Random, folder: Path) -> Path:
    value: Any = {
        "extends": "demo",
        "epochs": 5,
        "image_size": 32,
        "crop": {"alpha": 0.5, "scale": [0.2, 1.0]},
        "boxes": {"refresh_every": 2},
        "optimizer": {"lr": 0.1, "weight_decay": 0.01},
        "method": {"temperature": 0.2},
    }
    for _ in range(rng.randrange(3)):
        value = changed(rng, value)
    text = "\n".join(_toml(value)) if isinstance(value, dict) else str(value)
    if rng.random() < 0.1:
        for number in range(rng.choice([3, 1_500])):
            (folder / f"r{number}.toml").write_text(f'extends = "r{number + 1}.toml"')
        text = 'extends = "r0.toml"'
    if rng.random() < 0.05:
        (folder / "loop").mkdir()
        (folder / "loop" / "self").symlink_to("self")
        text = 'extends = "loop/self"'
    data = text.encode("utf-8", "surrogatepass")
    return written(folder / "own.toml", garbled(rng, data) if rng.random() < 0.4 else data)


def _toml(value: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for name, part in value.items():
        if not isinstance(part, dict):
            lines.append(f"{name or 'x'} = {_toml_value(part)}")
    for name, part in value.items():
        if isinstance(part, dict):
            lines += [f"[{path}{name or 'x'}]", *_toml(part, f"{path}{name or 'x'}.")]
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return (
            hex(value)
            if value > 10**300
            else f"-{'9' * 4500}"
            if value < -(10**300)
            else str(value)
        )
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, default=str)


def _classes(rng: Random, folder: Path) -> Path:
    source = folder / "classed"
    written(source / "s.tar", _TAR)
    text = "\n".join(["cat", "dog", odd_text(rng)]).encode("utf-8", "surrogatepass")
    return written(source / "classes.txt", garbled(rng, text)).parent


def _tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (("a.jpg", _jpeg()), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG")
    return file.getvalue()


_TAR = _tar()


def _importing(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def use(path: Path) -> None:
        source = path.parent / "images"
        for name in IMAGES:
            written(source / name, _jpeg())
        import_boxes(open_source(source), read(path), path.parent / "out")

    return use


def _list_classes(path: Path) -> None:
    source = open_source(path)
    names = source.classes
    for sample in source.read(source.shards[0]):
        assert sample.label == 1 or names


KINDS: dict[str, tuple[Callable[[Random, Path], Path], Callable[[Path], Any]]] = {
    "coco": (_coco, _importing(read_coco)),
    "csv": (_csv, _importing(read_csv)),
    "cvat": (_cvat, _importing(read_cvat)),
    "fiftyone": (_fiftyone, _importing(read_fiftyone)),
    "label studio": (_label_studio, _importing(read_label_studio)),
    "open images": (_open_images, _importing(read_open_images)),
    "yolo": (_yolo, _importing(read_yolo)),
    "npz": (_npz, _importing(read_npz)),
    "masks": (_masks, _importing(read_masks)),
    "recipe": (_recipe, lambda path: make_plan(load_recipe(str(path)))),
    "classes": (_classes, _list_classes),
}


# Of folders, the file that is damaged; of settings that do not go together, which.
_NAMED = {
    "yolo": ["a.txt", "b.txt"],
    "masks": ["a.png", "b.png"],
    "classes": ["classes.txt"],
    "recipe": ["own.toml", "r0.toml", "boxes.", "optimizer."],
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken`, `refused` by a message that names the file; else what went wrong."""
    make, use = KINDS[kind]
    path = make(Random(f"{kind} {seed}"), folder)
    return judged(lambda: use(path), _NAMED.get(kind, [path.name]))


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
