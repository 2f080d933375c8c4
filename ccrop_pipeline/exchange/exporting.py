"""Box sets as other tools read them."""

from pathlib import Path
from typing import Final

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.boxset.atomic import written_aside
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.coco import write_coco
from ccrop_pipeline.exchange.huggingface import METADATA, write_metadata

FILES: Final = ("coco", "hf")


def export_file(
    box_set: BoxSet, out: Path, form: str, suffix: str = "", overwrite: bool = False
) -> Path:
    """Write a box set as one file of another form.

    Boxes that a sampler may draw from are all written, and not their union.

    Args:
        box_set: The boxes.
        out: The file; for `hf` the folder of the images, in which `metadata.parquet` is written.
        form: `coco` or `hf`.
        suffix: What is put behind each key to make a file name, such as `.jpg`.
        overwrite: Whether to replace a file.

    Returns:
        The file.

    Raises:
        CcropError: If the file is there and may not be replaced, or its folder is not there.
        ValueError: If the form is not known.
    """
    if form not in FILES:
        raise ValueError(f"form must be one of {FILES}, not {form!r}")
    path = out / METADATA if form == "hf" else out
    if path.is_dir():
        raise CcropError(f"{path} is a folder: name the {form} file to write.")
    if path.exists() and not overwrite:
        raise CcropError(f"{path} is already there. Choose another name, or --overwrite it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_metadata if form == "hf" else write_coco
    with written_aside(path) as aside:
        write(box_set, aside, suffix)
        if overwrite:
            path.unlink(missing_ok=True)
    return path
