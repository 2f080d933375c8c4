"""Box sets as other tools read them."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import TargetTakenError, written_aside
from ccrop_pipeline.boxset import BoxSet, BoxTable
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.exchange.annotations import found_boxes, in_pixels, sizes_of
from ccrop_pipeline.exchange.coco import write_coco

FILES: Final = ("coco", "hf")
METADATA: Final = "metadata.parquet"
_OBJECTS: Final = pa.struct(
    [("bbox", pa.list_(pa.list_(pa.float64()))), ("categories", pa.list_(pa.int64()))]
)
_SCHEMA: Final = pa.schema([("file_name", pa.string()), ("objects", _OBJECTS)])


def export_file(
    box_set: BoxSet,
    out: str | Path,
    form: str,
    *,
    suffix: str = "",
    upright: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a box set as one file of another form.

    Boxes that a sampler may draw from are all written, and not their union. A file that is there
    with the very same content is left as it is.

    Args:
        box_set: The boxes.
        out: The file; for `hf` the folder of the images, in which `metadata.parquet` is written.
        form: `coco` or `hf`.
        suffix: What is put behind each key to make a file name, such as `.jpg`.
        upright: Whether boxes and sizes are for images that are turned upright by their EXIF
            orientation, as most readers do; by default they are for the stored pixels.
        overwrite: Whether to replace a file.

    Returns:
        The file.

    Raises:
        CcropError: If the file is there with other content and may not be replaced, or cannot be
            written.
        SettingError: If the form is not known, or the name that of another.
    """
    if form not in FILES:
        raise SettingError(f"form is {form!r}; it must be one of {FILES}.")
    path = local_path(out)
    path = path / METADATA if form == "hf" else path
    if form == "coco" and path.suffix not in ("", ".json"):
        raise SettingError(f"{path} is to be COCO, which is JSON: let its name end in .json.")
    if path.is_dir():
        raise CcropError(f"{path} is a folder: name the {form} file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_metadata if form == "hf" else write_coco
    try:
        with written_aside(path, replace=overwrite) as aside:
            write(box_set, aside, suffix, turned=upright)
    except TargetTakenError:
        raise TargetTakenError(path, replaceable=True) from None
    return path


def write_metadata(box_set: BoxSet, path: Path, suffix: str, *, turned: bool) -> None:
    """Write a row an image; its list is empty where its box is no find.

    `metadata.parquet` is what Hugging Face datasets read beside a folder of images:
    `load_dataset("imagefolder", data_dir=...)` joins its column `file_name` to the files and adds
    the others: `objects` with `bbox`, left, top, width and height in pixels, and `categories`.

    Args:
        box_set: The boxes.
        path: File to write; its name has to be `metadata.parquet` in the end.
        suffix: Put behind each key to make its `file_name`.
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
    names = pa.array([key + suffix for key in table.keys], pa.string())
    return pa.Table.from_arrays([names, objects.cast(_OBJECTS)], schema=_SCHEMA)
