"""Every rule of the format has a box set that keeps it and one that breaks it."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from raw_boxset import RawSet, make_header, make_row, text_of

from ccrop_pipeline.boxset import RULES, BoxSet, SourceImage, validate
from ccrop_pipeline.errors import BoxSetError, CcropError

Edit = Callable[[RawSet], Any]
P, W = ("parquet",), ("webdataset",)
BOTH = P + W
FULL = {"x_min": 0.0, "y_min": 0.0, "x_max": 1.0, "y_max": 1.0}
IMAGES = [("a-0", "one", 2**64 - 1), ("a-0", "two", 2**64 - 1), ("a-1", "three", 2**64 - 1)]


def header(**changes: Any) -> Edit:
    return lambda raw: setattr(raw, "header", make_header(**changes))


def localizer(**changes: Any) -> Edit:
    return header(localizer=make_header()["localizer"] | changes)


def shard_header(text: str) -> Edit:
    return lambda raw: raw.entries.update({"a-1": raw.entries_of(text)})


def shard_entries(entries: dict[str, str]) -> Edit:
    return lambda raw: raw.entries.update({"a-1": entries})


def libraries(value: Any) -> Edit:
    return lambda raw: setattr(raw, "libraries", value)


def shard_libraries(text: str) -> Edit:
    entries = {"ccrop": text_of(make_header()), "ccrop_libraries": text}
    return shard_entries(entries)


def provenance_text(edit: Callable[[str], str]) -> Edit:
    """Another text in the manifest alone, with its fingerprint."""

    def changed(data: dict[str, Any]) -> None:
        data["provenance"] = edit(data["provenance"])
        data["fingerprint"] = hashlib.sha256(data["provenance"].encode()).hexdigest()

    return manifest(changed)


def manifest_text(edit: Callable[[str], str]) -> Edit:
    def changed(path: Path) -> None:
        file = path / "manifest.json"
        file.write_text(edit(file.read_text(encoding="utf-8")), encoding="utf-8")

    return folder(changed)


def sample(edit: Callable[[str], str]) -> Edit:
    return lambda raw: setattr(raw, "edit_sample", edit)


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def manifest(edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda raw: setattr(raw, "edit_manifest", edit)


def files(edit: Callable[[Path], Any]) -> Edit:
    return lambda raw: setattr(raw, "edit_files", edit)


def folder(edit: Callable[[Path], Any]) -> Edit:
    return lambda raw: setattr(raw, "edit_folder", edit)


def table(edit: Callable[[pa.Table], pa.Table]) -> Edit:
    return lambda raw: setattr(raw, "edit_table", edit)


def row(**changes: Any) -> Edit:
    return lambda raw: raw.set(**changes)


def images(rows: list[tuple[str, str, int]]) -> Edit:
    return lambda raw: setattr(raw, "images", rows)


def heatmaps(*grids: Any) -> Edit:
    def edit(raw: RawSet) -> None:
        for one, grid in zip((r for rows in raw.shards.values() for r in rows), grids, strict=True):
            one.update({} if grid is None else {"heatmap": grid})

    return edit


def choices(*boxes: Any) -> Edit:
    def edit(raw: RawSet) -> None:
        for one, own in zip((r for rows in raw.shards.values() for r in rows), boxes, strict=True):
            one.update({} if own is None else {"choices": own})

    return edit


def only_shard(path: Path) -> Path:
    return next(path.rglob("a-1.*"))


def cut(size: int) -> Callable[[Path], Any]:
    return lambda path: only_shard(path).write_bytes(only_shard(path).read_bytes()[:size])


def flip_byte(path: Path) -> None:
    data = bytearray(only_shard(path).read_bytes())
    data[len(data) // 2] ^= 1
    only_shard(path).write_bytes(data)


def rename(raw: RawSet, key: str) -> None:
    raw.shards["a-0"][1]["key"] = key


def cast(name: str, kind: pa.DataType) -> Edit:
    def edit(data: pa.Table) -> pa.Table:
        return data.set_column(
            data.column_names.index(name), name, data[name].cast(kind, safe=False)
        )

    return table(edit)


GRID = [[0.0, 1.0, 0.5], [0.25, 0.5, 0.125]]
NOTHING: Edit = lambda raw: None  # noqa: E731
WHOLE = [[0.25, 0.0, 1.0, 0.5]]  # the box of every row
PARTS = [[0.25, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 0.5], [0.5, 0.125, 0.75, 0.25]]
CHOICE = {
    **{"images": 400, "windows": 2, "worthless": False, "threshold": [0.1]},
    **{"kappa": [0.7], "freedom": [1], "mean_area": [0.5]},
}
NO_FIGURES = {"threshold": [], "kappa": [], "freedom": [], "mean_area": []}
NO_MODEL = header(encoder=None, localizer=None, rule="centre")

VALID: list[tuple[str, tuple[str, ...], Edit]] = [
    ("B001", BOTH, NOTHING),
    ("B001", BOTH, manifest(lambda m: m.update(made={"by": ["a later version"]}))),
    ("B001", BOTH, manifest(lambda m: m["shards"][0].update(colour="red"))),
    ("B002", BOTH, NOTHING),
    ("B003", BOTH, NO_MODEL),
    ("B003", BOTH, libraries({})),
    ("B003", BOTH, header(extra={"of": ["a later version"]})),
    ("B003", BOTH, localizer(smoothing="gaussian")),
    ("B003", P, header(encoder=make_header()["encoder"] | {"precision": "bf16"})),
    ("B003", P, localizer(threshold=0, margin=0, min_size=1)),
    ("B003", BOTH, localizer(mean_share=0.5, choice=CHOICE)),
    ("B003", BOTH, localizer(mean_share=0, choice=None)),
    ("B003", BOTH, localizer(centre_weight=0.5)),
    ("B003", BOTH, localizer(objects=3)),
    (
        "B003",
        BOTH,
        localizer(threshold=None, mass=0.9, component="largest", margin=1.0, min_size=1.0),
    ),
    ("B004", P, header(source={"kind": "folder", "fingerprint": "Bücher"})),
    ("B005", BOTH, NOTHING),
    ("B006", BOTH, lambda raw: raw.shards.update({"ä b.c": [make_row("four")]})),
    ("B007", BOTH, NOTHING),
    ("B008", BOTH, lambda raw: raw.shards.update({"b": [make_row(f"k{i}") for i in range(9)]})),
    ("B009", BOTH, row(status="unreadable", **FULL)),
    ("B009", BOTH, row(x_min=0.1, y_max=1.0)),  # an area just over nine tenths
    (
        "B009",
        P,
        manifest(lambda m: m["statistics"].update(mean_area=m["statistics"]["mean_area"] + 9e-7)),
    ),
    ("B009", P, manifest(lambda m: m["statistics"].update(median_area=0.375))),
    ("B009", P, manifest(lambda m: m["statistics"]["counts"].update(blurred=0))),
    ("B009", BOTH, lambda raw: setattr(raw, "shards", {})),
    ("B010", BOTH, folder(lambda p: (p / "data/.a-2.parquet.0a.tmp").touch())),
    ("B010", BOTH, folder(lambda p: (p / "data/.a-2.parquet").touch())),
    ("B010", BOTH, folder(lambda p: (p / "data/notes.txt").touch())),
    ("B011", BOTH, NOTHING),
    ("B012", BOTH, shard_entries({"other": "1", **RawSet().entries_of(text_of(make_header()))})),
    ("B013", BOTH, shard_libraries('{"torch": "2.8.0"}')),
    ("B014", P, table(lambda t: t.select(t.column_names[::-1]))),
    ("B014", P, cast("status", pa.dictionary(pa.int32(), pa.string()))),
    ("B014", P, cast("key", pa.large_string())),
    ("B014", P, table(lambda t: t.append_column("label", t["width"]))),
    (
        "B014",
        P,
        table(lambda t: t.append_column("of", pa.array([{"key": [i]} for i in range(len(t))]))),
    ),
    ("B014", W, row(x_min=0, width=2**32 - 1)),
    ("B014", W, row(label={"of": ["a later version"]})),
    ("B015", P, lambda raw: raw.shards.update({"b": [make_row(f"k{i}") for i in range(65_536)]})),
    ("B016", W, lambda raw: rename(raw, "n0.1/__x__/img-07")),
    ("B017", BOTH, lambda raw: rename(raw, "café/図 1")),
    ("B017", BOTH, lambda raw: rename(raw, "~\xa0\u2028")),  # next to control characters, or alike
    ("B018", BOTH, lambda raw: rename(raw, "One")),
    ("B019", BOTH, row(status="empty", **FULL)),
    ("B020", BOTH, row(**FULL)),
    ("B021", BOTH, row(x_min=0.5, x_max=0.5000001)),
    ("B022", BOTH, row(status="unreadable", **FULL)),
    ("B023", BOTH, row(width=1, height=1)),
    ("B023", BOTH, row(status="unreadable", width=0, height=0, **FULL)),
    ("B024", BOTH, heatmaps(GRID, GRID, GRID)),
    ("B025", BOTH, heatmaps([[0.0]], [[1.0]], [[-0.0]])),
    ("B026", BOTH, images(IMAGES)),
    ("B027", BOTH, images(IMAGES)),
    ("B028", BOTH, choices(WHOLE, WHOLE, WHOLE)),
    ("B029", BOTH, choices(WHOLE, PARTS, PARTS[::-1])),
    ("B029", W, choices([[0.25, 0, 1, 0.5]], WHOLE, WHOLE)),
    ("B030", BOTH, choices([*WHOLE, *PARTS], PARTS, PARTS)),
    ("B031", BOTH, row(orientation=8)),
]

INVALID: list[tuple[str, tuple[str, ...], Edit]] = [
    ("B001", BOTH, folder(lambda p: (p / "manifest.json").unlink())),
    ("B001", BOTH, folder(lambda p: (p / "manifest.json").write_text("{"))),
    ("B001", P, folder(lambda p: (p / "manifest.json").write_text("[]"))),
    ("B001", P, folder(lambda p: (p / "manifest.json").write_bytes(b'"\xff"'))),
    ("B001", P, manifest(lambda m: m.pop("provenance"))),
    ("B001", P, manifest(lambda m: m.update(provenance={"encoder": None}))),
    ("B001", P, manifest(lambda m: m.update(fingerprint=None))),
    ("B001", P, manifest(lambda m: m.update(rows=10.0))),
    ("B001", P, manifest_text(replaced('"form"', '"rows": 3, "form"'))),
    ("B001", P, manifest_text(replaced('"rows": 2', '"rows": NaN'))),
    ("B001", P, manifest_text(replaced('"rows": 2', '"rows": 2' + "0" * 5000))),
    (
        "B001",
        P,
        manifest_text(replaced('"form"', '"deep": ' + "[" * 99_999 + "]" * 99_999 + ', "form"')),
    ),
    ("B001", P, manifest_text(replaced('"name": "a-0"', r'"name": "\ud800"'))),
    ("B001", P, manifest(lambda m: m.update(rows=True))),
    ("B001", P, manifest(lambda m: m.update(shards={}))),
    ("B001", P, manifest(lambda m: m["shards"].append("a-2"))),
    ("B001", P, manifest(lambda m: m["shards"][1].pop("sha256"))),
    ("B001", P, manifest(lambda m: m["shards"][1].update(bytes=True))),
    ("B001", P, manifest(lambda m: m["statistics"]["counts"].pop("ok"))),
    ("B001", P, manifest(lambda m: m["statistics"].pop("full"))),
    ("B001", P, manifest(lambda m: m["statistics"].update(mean_area="0.5"))),
    ("B001", P, manifest(lambda m: m["statistics"].update(area_histogram=[0.5] * 10))),
    ("B001", P, manifest_text(replaced('"mean_area": 0.375', '"mean_area": 1e999'))),
    ("B001", P, manifest(lambda m: m["shards"][0].update(rows="2"))),
    ("B002", BOTH, header(version=2)),
    ("B002", BOTH, header(format="boxes")),
    ("B002", BOTH, shard_header(json.dumps(make_header(version=2)))),
    ("B002", BOTH, header(version=True)),
    ("B002", BOTH, header(version=1.0)),
    ("B002", P, manifest(lambda m: m.update(version=True))),
    ("B002", P, manifest(lambda m: m.pop("format"))),
    ("B002", P, provenance_text(replaced('"version": 1', '"version": true'))),
    ("B002", P, shard_header("[]")),
    ("B003", BOTH, header(encoder=None)),
    ("B003", P, header(encoder=None, localizer=None)),
    ("B003", P, header(rule=3)),
    ("B003", BOTH, shard_header("{")),
    ("B003", P, shard_header(text_of(make_header()).replace('"rule"', '"rule": null, "rule"'))),
    ("B003", P, shard_header(text_of(make_header()).replace("0.1", "1e999"))),
    ("B003", P, shard_header(text_of(make_header()).replace("0.1", "1" + "0" * 400))),
    ("B003", P, shard_header(text_of(make_header()).replace('"sum"', r'"\udc80"'))),
    ("B003", P, provenance_text(lambda text: "[" * 99_999)),
    ("B003", P, provenance_text(replaced(',\n "rule": null', ""))),
    ("B003", P, provenance_text(replaced('"rule": null', '"rule": -Infinity'))),
    ("B003", P, header(frame="EXIF applied")),
    ("B001", BOTH, libraries({"torch": 2})),
    ("B003", BOTH, shard_libraries("[]")),
    ("B003", BOTH, shard_libraries("{")),
    ("B003", BOTH, shard_libraries('{"torch": 2}')),
    ("B003", P, header(source={"kind": "tar"})),
    ("B003", BOTH, localizer(threshold=1.5)),
    ("B003", BOTH, localizer(mean_share=2.5)),
    ("B003", BOTH, localizer(centre_weight=1.5)),
    ("B003", BOTH, localizer(centre_weight=None)),
    ("B003", BOTH, localizer(objects=0)),
    ("B003", BOTH, localizer(objects=2.5)),
    ("B003", BOTH, localizer(objects=None)),
    ("B003", BOTH, localizer(mean_share=None)),
    ("B003", BOTH, localizer(threshold=None, mass=0.5, mean_share=0.5)),
    ("B003", BOTH, localizer(choice={**CHOICE, "kappa": [0.5, 0.6]})),
    ("B003", BOTH, localizer(choice={**CHOICE, "images": 1.5})),
    ("B003", BOTH, localizer(choice={**CHOICE, "images": -1})),
    ("B003", P, localizer(choice={**CHOICE, "kappa": [1e300]})),
    ("B003", P, localizer(choice={**CHOICE, "freedom": [-0.1]})),
    ("B003", P, localizer(choice={**CHOICE, "mean_area": [7]})),
    ("B003", BOTH, localizer(choice={**CHOICE, "threshold": [0.2]})),
    ("B003", BOTH, localizer(threshold=None, mass=0.5, choice=CHOICE)),
    ("B003", P, localizer(threshold=None, mass=0.5, choice={**CHOICE, **NO_FIGURES})),
    ("B003", BOTH, localizer(choice=[])),
    ("B003", P, localizer(mass=0.9)),
    ("B003", P, localizer(threshold=None)),
    ("B003", P, localizer(threshold=None, mass=0.0)),
    ("B003", P, localizer(threshold=True)),
    ("B003", P, localizer(component="second")),
    ("B003", P, localizer(margin=-0.1)),
    ("B003", P, localizer(margin=None)),
    ("B003", P, localizer(min_size=1.5)),
    ("B003", P, localizer(input_size=224.0)),
    ("B003", P, header(encoder={"name": "resnet18", "layer": "layer4", "epoch": None})),
    ("B003", P, header(encoder=make_header()["encoder"] | {"epoch": True})),
    ("B004", BOTH, manifest(lambda m: m.update(fingerprint="0" * 64))),
    ("B005", BOTH, manifest(lambda m: m.update(form="csv"))),
    ("B001", P, manifest(lambda m: m.update(form=None))),
    ("B006", BOTH, manifest(lambda m: m["shards"][1].update(name="b-1"))),
    ("B007", BOTH, folder(lambda p: only_shard(p).unlink())),
    ("B007", BOTH, manifest(lambda m: m["shards"][1].update(bytes=5))),
    ("B007", BOTH, manifest(lambda m: m["shards"][1].update(sha256="0" * 64))),
    ("B008", BOTH, manifest(lambda m: m.update(rows=2))),
    ("B009", BOTH, manifest(lambda m: m["statistics"]["counts"].update(ok=2, empty=1))),
    (
        "B009",
        P,
        manifest(lambda m: m["statistics"].update(mean_area=m["statistics"]["mean_area"] + 2e-6)),
    ),
    ("B009", P, manifest(lambda m: m["statistics"].update(mean_area=None))),
    ("B009", P, manifest(lambda m: m["statistics"].update(nearly_full=1))),
    ("B009", P, manifest(lambda m: m["statistics"].update(full=1))),
    ("B009", P, manifest(lambda m: m["statistics"]["area_histogram"].reverse())),
    ("B009", P, manifest(lambda m: m["statistics"]["area_histogram"].append(0))),
    ("B010", BOTH, folder(lambda p: (p / "data/a-2.parquet").touch())),
    ("B010", BOTH, folder(lambda p: (p / "data/a-2.boxes.tar").touch())),
    ("B011", BOTH, files(cut(0))),
    ("B011", BOTH, files(cut(-1))),
    ("B011", BOTH, files(cut(-1024))),
    ("B011", P, files(lambda p: only_shard(p).write_text("no table"))),
    ("B012", BOTH, shard_entries({})),
    ("B012", BOTH, shard_entries({"ccrop": text_of(make_header())})),
    ("B012", BOTH, shard_entries({"ccrop_libraries": "{}"})),
    ("B013", BOTH, shard_header(text_of(make_header(rule="shuffled")))),
    ("B013", BOTH, shard_header(json.dumps(make_header()))),
    ("B013", P, provenance_text(lambda text: text + " ")),
    ("B014", P, table(lambda t: t.drop_columns(["width"]))),
    ("B014", P, table(lambda t: t.append_column("width", t["width"]))),
    ("B014", P, cast("x_min", pa.float64())),
    ("B014", P, cast("image_hash", pa.int64())),
    ("B014", P, cast("orientation", pa.uint16())),
    ("B014", P, table(lambda t: t.drop_columns(["orientation"]))),
    ("B014", P, row(height=None)),
    ("B014", P, heatmaps([[0.5]], [[None]], [[0.5]])),
    ("B014", W, sample(lambda text: "[]")),
    ("B014", W, sample(lambda text: "[" * 99_999)),
    ("B014", W, sample(replaced('"status": "ok", ', ""))),
    ("B014", W, sample(replaced('"status"', '"width": 640, "status"'))),
    ("B014", W, sample(replaced("640", "6" * 5000))),
    ("B014", W, sample(replaced("640", "640.0"))),
    ("B014", W, sample(replaced('"key": "two"', r'"key": "two\udc80"'))),
    ("B014", W, row(height=-(10**30))),
    ("B014", W, row(width=-1)),
    ("B014", W, row(height=True)),
    ("B014", W, row(orientation=256)),
    ("B014", W, row(orientation=1.0)),
    ("B014", W, row(width=2**32)),
    ("B014", W, row(x_max="1.0")),
    # From 2**53 on, not every integer is a double: readers would disagree about its value.
    ("B014", W, row(x_max=2**53)),
    ("B014", W, row(x_min=-(2**53))),
    ("B014", W, row(x_max=10**400)),
    ("B014", W, heatmaps([[0.5]], [[2**53]], [[0.5]])),
    ("B014", W, row(x_max=float("nan"))),
    ("B014", W, heatmaps([[0.5]], [[0.5], [0.5, 0.5]], [[0.5]])),
    ("B016", W, lambda raw: rename(raw, "n01/img.jpg")),
    ("B016", W, lambda raw: rename(raw, "__x__/img")),
    ("B016", W, lambda raw: raw.member.update(two="2.box.json")),
    ("B017", BOTH, lambda raw: rename(raw, "")),
    ("B017", BOTH, lambda raw: rename(raw, "a\nb")),
    ("B017", BOTH, lambda raw: rename(raw, "a\x1fb")),
    ("B017", BOTH, lambda raw: rename(raw, "a\x7fb")),
    ("B017", BOTH, lambda raw: rename(raw, "a\x80b")),
    ("B017", BOTH, lambda raw: rename(raw, "a\x9fb")),
    ("B018", BOTH, lambda raw: rename(raw, "one")),
    ("B018", BOTH, lambda raw: rename(raw, "three")),
    ("B019", BOTH, row(status="fine")),
    ("B020", BOTH, row(x_min=-0.1)),
    ("B020", BOTH, row(y_max=1.0000001)),
    ("B020", W, row(x_max=2**53 - 1)),
    ("B020", P, row(x_max=float("nan"))),
    ("B020", P, row(x_max=float("inf"))),
    ("B021", BOTH, row(x_min=0.5, x_max=0.5)),
    ("B021", BOTH, row(y_min=0.6, y_max=0.5)),
    ("B022", BOTH, row(status="empty")),
    ("B022", BOTH, row(status="unreadable")),
    ("B023", BOTH, row(width=0)),
    ("B023", BOTH, row(height=0, status="empty", **FULL)),
    ("B024", BOTH, heatmaps(GRID, GRID, GRID[:1])),
    ("B024", BOTH, heatmaps(GRID, GRID, None)),
    ("B024", BOTH, heatmaps(GRID, GRID[:1], GRID)),
    ("B024", W, heatmaps(GRID, None, GRID)),
    ("B025", BOTH, heatmaps([[0.5]], [[1.001]], [[0.5]])),
    ("B025", BOTH, heatmaps([[0.5]], [[-0.5]], [[0.5]])),
    ("B025", P, heatmaps([[0.5]], [[float("nan")]], [[0.5]])),
    ("B026", BOTH, images(IMAGES[:2])),
    ("B026", BOTH, images(IMAGES[1:])),
    ("B026", BOTH, images([IMAGES[1], IMAGES[0], IMAGES[2]])),
    ("B026", BOTH, images([IMAGES[2], IMAGES[0], IMAGES[1]])),
    ("B026", BOTH, images([*IMAGES, ("a-1", "four", 1)])),
    ("B026", BOTH, images([*IMAGES, ("a-2", "four", 1)])),
    ("B026", BOTH, images([*IMAGES, IMAGES[0]])),
    ("B027", BOTH, images([*IMAGES[:2], ("a-1", "three", 5)])),
    ("B014", BOTH, choices(WHOLE, [[0.0, 0.0, 1.0]], WHOLE)),
    ("B014", BOTH, choices(WHOLE, [[0.25, 0.0, 1.0, None]], WHOLE)),
    ("B014", BOTH, choices(WHOLE, [None], WHOLE)),
    ("B014", W, choices(WHOLE, {"box": 1}, WHOLE)),
    ("B014", W, choices(WHOLE, [[0.25, 0.0, 1.0, "0.5"]], WHOLE)),
    ("B014", W, choices(WHOLE, [[0.25, 0.0, 2**53, 0.5]], WHOLE)),
    ("B028", BOTH, choices(WHOLE, WHOLE, None)),
    ("B028", W, choices(WHOLE, None, WHOLE)),
    ("B029", BOTH, choices(WHOLE, [], WHOLE)),
    ("B029", BOTH, choices(WHOLE, [*WHOLE, [0.5, 0.0, 1.5, 0.5]], WHOLE)),
    ("B029", BOTH, choices(WHOLE, [*WHOLE, [0.5, 0.25, 0.5, 0.5]], WHOLE)),
    ("B029", P, choices(WHOLE, [*WHOLE, [0.5, float("nan"), 0.75, 0.5]], WHOLE)),
    ("B030", BOTH, choices(WHOLE, PARTS[:1], WHOLE)),
    ("B030", BOTH, choices([[0.25, 0.0, 1.0, 0.75]], WHOLE, WHOLE)),
    ("B031", BOTH, row(orientation=0)),
    ("B031", BOTH, row(orientation=9)),
    ("B031", BOTH, row(orientation=6, status="unreadable", **FULL)),
]


def cases(table: list[tuple[str, tuple[str, ...], Edit]]) -> list[Any]:
    return [
        pytest.param(rule, form, edit, id=f"{rule}-{form}-{number}")
        for number, (rule, forms, edit) in enumerate(table)
        for form in forms
    ]


def found(form: str, edit: Edit, where: Path) -> list[Any]:
    raw = RawSet(form)
    edit(raw)
    raw.write(where)
    sources = None if raw.images is None else [SourceImage(*image) for image in raw.images]
    return validate(where, images=sources)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "form", "edit"), cases(VALID))
def test_a_box_set_that_keeps_the_rules_has_no_problem(
    rule: str, form: str, edit: Edit, tmp_path: Path
) -> None:
    assert found(form, edit, tmp_path / "boxes") == []
    boxes = BoxSet.open(tmp_path / "boxes")
    assert sum(len(data) for _, data in boxes.tables()) == boxes.manifest.rows


@pytest.mark.parametrize(("rule", "form", "edit"), cases(INVALID))
def test_a_broken_rule_is_found_and_no_other_is_accused(
    rule: str, form: str, edit: Edit, tmp_path: Path
) -> None:
    problems = found(form, edit, tmp_path / "boxes")
    # A shard of a version that is not known also has another fingerprint or none: one cause.
    assert {problem.rule for problem in problems} == {rule}
    assert all(problem.where and problem.message for problem in problems)


def use_all(folder: Path) -> None:
    boxes = BoxSet.open(folder)
    assert len(list(boxes.tables())) == 2
    boxes.lookup()


# Found by `validate` alone: no box depends on it.
LEFT_TO_VALIDATE = {"B009", "B010", "B024", "B026", "B027"}


@pytest.mark.parametrize(
    ("rule", "form", "edit"), cases([case for case in INVALID if case[0] not in LEFT_TO_VALIDATE])
)
def test_no_box_is_taken_from_a_box_set_that_breaks_a_rule(
    rule: str, form: str, edit: Edit, tmp_path: Path
) -> None:
    raw = RawSet(form)
    edit(raw)
    raw.write(tmp_path / "boxes")
    with pytest.raises(BoxSetError):
        use_all(tmp_path / "boxes")


@pytest.mark.slow
def test_a_row_group_may_not_be_larger(tmp_path: Path) -> None:
    raw = RawSet()
    raw.shards["b"] = [make_row(f"k{i}") for i in range(65_537)]
    raw.row_group = 70_000
    raw.write(tmp_path / "boxes")
    assert [problem.rule for problem in validate(tmp_path / "boxes")] == ["B015"]


def test_every_rule_has_a_valid_and_an_invalid_case() -> None:
    elsewhere = {"B032"}  # of what is no part of the set, in test_lookup.py
    assert {rule for rule, _, _ in VALID} | elsewhere == set(RULES)
    assert {rule for rule, _, _ in INVALID} | {"B015"} | elsewhere == set(RULES)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    raw = RawSet()
    raw.edit_folder = flip_byte
    raw.write(tmp_path / "boxes")
    assert "B007" in {problem.rule for problem in validate(tmp_path / "boxes")}


def test_all_problems_are_reported_with_their_places(tmp_path: Path) -> None:
    raw = RawSet()
    raw.shards["a-0"][0] |= {"x_min": 2.0}
    raw.shards["a-0"][1] |= {"width": 0, "status": "empty"}
    raw.shards["a-1"][0] |= {"key": "one"}
    raw.edit_manifest = lambda m: m.update(rows=9)
    raw.write(tmp_path / "boxes")
    assert {(p.rule, p.where) for p in validate(tmp_path / "boxes")} == {
        ("B008", "manifest.json"),
        ("B020", "a-0.parquet row 0"),
        ("B022", "a-0.parquet row 1"),
        ("B023", "a-0.parquet row 1"),
        ("B018", "a-1.parquet row 0"),
    }


@pytest.mark.parametrize("file", ["../b.parquet", "/etc/hostname"])
def test_a_listed_file_cannot_lead_out_of_the_folder(file: str, tmp_path: Path) -> None:
    raw = RawSet()
    raw.edit_manifest = lambda m: m["shards"][1].update(file=file)
    raw.write(tmp_path / "boxes")
    assert {p.rule for p in validate(tmp_path / "boxes")} == {"B006", "B010"}
    with pytest.raises(CcropError, match="B006"):
        BoxSet.open(tmp_path / "boxes")


def test_the_document_lists_the_rules_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (B\d+) \| (.*) \|$", text, re.MULTILINE) == sorted(RULES.items())


def repeated(table: pa.Table, n: int, **changes: Any) -> pa.Table:
    """Return n rows, each column one value in a dictionary: a few bytes on disk."""
    columns = {}
    for name in table.schema.names:
        kind = table.schema.field(name).type
        value = pa.array([changes.get(name, table[name][0].as_py())], kind)
        zeros = pa.array(np.zeros(n, np.int8))
        columns[name] = pa.DictionaryArray.from_arrays(zeros, value)
        if name not in changes:
            columns[name] = columns[name].cast(kind)
    return pa.table(columns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "n", "changes"),
    [
        ("B011", 1_000_000, {}),  # rows that these bytes cannot hold
        ("B018", 2_000, {"key": "k" * 1_000_000}),  # 2 GB of text out of 1 MB
        ("B018", 2_000, {"status": "s" * 1_000_000}),
    ],
)
def test_a_few_bytes_do_not_unpack_into_gigabytes(
    rule: str, n: int, changes: dict[str, str], tmp_path: Path
) -> None:
    raw = RawSet()
    raw.edit_table = lambda table: repeated(table, n, **changes)
    raw.write(tmp_path / "boxes")
    code = (
        "import resource, sys\n"
        "from ccrop_pipeline.boxset import validate\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"print({{p.rule for p in validate({str(tmp_path / 'boxes')!r})}})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rules, kilobytes = done.stdout.splitlines()
    assert rule in rules
    assert int(kilobytes) < 200_000
