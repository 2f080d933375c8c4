"""Finding image, key and label among the columns of a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from ccrop_pipeline.errors import CcropError


@dataclass(frozen=True)
class Columns:
    """Names of the columns that matter.

    Attributes:
        image: Encoded bytes, or a struct of ``bytes`` and maybe ``path``.
        key: A column of keys, if there is one.
        label: Integers, if there are any.
    """

    image: str
    key: str | None
    label: str | None

    @property
    def needed(self) -> list[str]:
        """All names, without the missing ones."""
        return [name for name in (self.image, self.key, self.label) if name is not None]


def find_columns(schema: Any, path: Path) -> Columns:
    """Choose the columns: by name, and the image by type where it has another name.

    Raises:
        CcropError: If no column or several could be the image, or the label is no integer.
    """
    found = [field.name for field in schema if _holds_images(field.type)]
    if "image" in found:
        found = ["image"]
    if len(found) != 1:
        raise CcropError(
            f"{path} has {len(found)} columns that could hold images"
            f"{' (' + ', '.join(found) + ')' if found else ''}; its columns are "
            f"{', '.join(f'{field.name}: {field.type}' for field in schema)}. Name one `image`, "
            "of type struct<bytes, path> or binary."
        )
    if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
        raise CcropError(
            f"column `label` of {path} is {schema.field('label').type}; a label is a whole number."
        )
    return Columns(
        image=found[0],
        key=next((name for name in ("key", "__key__") if name in schema.names), None),
        label="label" if "label" in schema.names else None,
    )


def keys_of(batch: Any, columns: Columns, path: Path) -> tuple[Any, list[str]]:
    """Return the images of a record batch as an Arrow large_binary array, and their keys.

    A key is the row's ``key``, else the path Hugging Face keeps beside the bytes, else the
    xxh3 of the bytes in hexadecimal: never the position, which moves when rows are filtered.

    Raises:
        CcropError: If a row has no image bytes or an empty key.
    """
    column = batch.column(columns.image)
    struct = pa.types.is_struct(column.type)
    images = (pc.struct_field(column, "bytes") if struct else column).cast(pa.large_binary())
    names: list[str | None] = [None] * len(images)
    if columns.key is not None:
        names = batch.column(columns.key).cast(pa.string()).to_pylist()
    elif struct and column.type.get_field_index("path") >= 0:
        names = pc.struct_field(column, "path").to_pylist()
    if images.null_count:
        row = pc.index(pc.is_null(images), True).as_py()
        raise CcropError(
            f"{path} holds a row without image bytes (named {names[row]!r}): images must lie in "
            "the table, not beside it."
        )
    keys = [
        name or xxhash.xxh3_64_hexdigest(image.as_py())
        for name, image in zip(names, images, strict=True)
    ]
    return images, keys


def labels_of(batch: Any, columns: Columns) -> NDArray[np.int64]:
    """Return the labels of a record batch, shape ``(n,)``, negative where unknown."""
    if columns.label is None:
        return np.full(batch.num_rows, -1, dtype=np.int64)
    filled = pc.fill_null(batch.column(columns.label).cast(pa.int64()), -1)
    labels: NDArray[np.int64] = np.maximum(filled.to_numpy(zero_copy_only=False), -1)
    return labels


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
