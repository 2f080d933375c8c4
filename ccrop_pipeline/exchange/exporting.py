"""Box sets as other tools read them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccrop_pipeline.base.addresses import is_address, local_path
from ccrop_pipeline.base.files import folder_written_aside, output_file
from ccrop_pipeline.boxset import BoxSet, BoxTable
from ccrop_pipeline.boxset.manifest import CROISSANT
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.exchange.annotations import file_name, found_boxes, in_pixels, sizes_of
from ccrop_pipeline.exchange.coco import write_coco
from ccrop_pipeline.exchange.croissant import write_croissant
from ccrop_pipeline.exchange.cvat import write_cvat
from ccrop_pipeline.exchange.fiftyone import write_fiftyone
from ccrop_pipeline.exchange.label_studio import write_label_studio
from ccrop_pipeline.exchange.tables import write_open_images
from ccrop_pipeline.exchange.yolo import write_yolo

METADATA: Final = "metadata.parquet"
_OBJECTS: Final = pa.struct(
    [("bbox", pa.list_(pa.list_(pa.float64()))), ("categories", pa.list_(pa.int64()))]
)
_SCHEMA: Final = pa.schema([("file_name", pa.string()), ("objects", _OBJECTS)])


def export_boxes(
    box_set: BoxSet,
    out: str | Path,
    form: str,
    *,
    suffix: str = "",
    prefix: str | None = None,
    upright: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a box set in the form of another tool.

    Boxes that a sampler may draw from are all written, and not their union. A file that is there
    with the very same content is left as it is.

    Args:
        box_set: The boxes.
        out: The file; for `hf` the folder of the images, in which `metadata.parquet` is written,
            for `croissant` the folder of the box set, in which `croissant.json` is, and for `yolo`
            the folder of the labels.
        form: One of `FORMS`.
        suffix: What is put behind keys that do not end like an image, such as those of tars, to
            make file names of them: `.jpg`.
        prefix: For `label-studio`, what is put before each file name to make the address of the
            image.
        upright: Whether boxes and sizes are for images that are turned upright by their EXIF
            orientation, as most readers do; by default they are for the stored pixels.
        overwrite: Whether to replace a file.

    Returns:
        What was written.

    Raises:
        CcropError: If the file is there with other content and may not be replaced, the folder of
            labels is not empty, something cannot be written, or the form cannot tell two images
            apart.
        SettingError: If the form is not known, or the name that of another, or `prefix` is given
            for a form without addresses.
    """
    if form not in FORMS:
        raise SettingError(f"form is {form!r}; it must be one of {', '.join(FORMS)}.")
    write, ending = FORMS[form]
    if prefix is not None:
        if form != "label-studio":
            raise SettingError(f"`prefix` is for label-studio, and the form is {form}.")
        write = partial(write_label_studio, prefix=prefix)
    path = local_path(out)
    if form == "yolo":
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_written_aside(path) as aside:
            write(box_set, aside, suffix, turned=upright)
        return path
    if form == "croissant":
        _expect_own_folder(box_set, path)
    within = {"croissant": CROISSANT, "hf": METADATA}.get(form)
    path = path / within if within else path
    if not within and path.suffix not in ("", ending):
        raise SettingError(f"{path} is to be {form}: let its name end in {ending}.")
    if path.is_dir():
        raise CcropError(f"{path} is a folder: name the {form} file to write.")
    with output_file(path, overwrite=overwrite) as aside:
        write(box_set, aside, suffix, turned=upright)
    return path


def _expect_own_folder(box_set: BoxSet, path: Path) -> None:
    if is_address(box_set.folder) or path.resolve() != local_path(box_set.folder).resolve():
        raise SettingError(
            f"{CROISSANT} names the files beside it: write it to the folder of the box set itself, "
            f"a local one, and not to {path}."
        )


def write_metadata(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write a row an image; its list is empty where its box is no find.

    `metadata.parquet` is what Hugging Face datasets read beside a folder of images:
    `load_dataset("imagefolder", data_dir=...)` joins its column `file_name` to the files and adds
    the others: `objects` with `bbox`, left, top, width and height in pixels, and `categories`.

    Args:
        box_set: The boxes.
        path: File to write; its name has to be `metadata.parquet` in the end.
        suffix: Put behind keys without an extension to make its `file_name`.
        turned: Whether boxes are for images that are turned upright.
    """
    with pq.ParquetWriter(path.absolute(), _SCHEMA, compression="zstd") as writer:
        for _, table in box_set.tables(heatmaps=False):
            writer.write_table(_rows(table, suffix, turned=turned))


def _rows(table: BoxTable, suffix: str, *, turned: bool) -> Any:
    rows, boxes = found_boxes(table, turned=turned)
    counts = np.bincount(rows, minlength=len(table))
    starts = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    edges = pa.array(in_pixels(boxes, sizes_of(table, turned=turned)[rows]).reshape(-1))
    fours = pa.array(np.arange(0, 4 * len(boxes) + 1, 4, dtype=np.int32))
    bbox = pa.ListArray.from_arrays(starts, pa.ListArray.from_arrays(fours, edges))
    categories = pa.ListArray.from_arrays(starts, pa.array(np.zeros(len(boxes), np.int64)))
    objects = pa.StructArray.from_arrays([bbox, categories], names=["bbox", "categories"])
    names = pa.array([file_name(key, suffix) for key in table.keys], pa.string())
    return pa.Table.from_arrays([names, objects.cast(_OBJECTS)], schema=_SCHEMA)


# What writes each form, and how the name of its file ends.
FORMS: Final[dict[str, tuple[Callable[..., None], str]]] = {
    "coco": (write_coco, ".json"),
    "croissant": (lambda box_set, path, *_, **__: write_croissant(box_set, path), ".json"),
    "cvat": (write_cvat, ".xml"),
    "fiftyone": (write_fiftyone, ".json"),
    "hf": (write_metadata, ".parquet"),
    "label-studio": (write_label_studio, ".json"),
    "open-images": (write_open_images, ".csv"),
    "yolo": (write_yolo, ""),
}
