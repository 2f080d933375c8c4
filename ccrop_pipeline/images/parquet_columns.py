"""Which columns of a Parquet table are images, keys and labels, and what they hold."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from ccrop_pipeline.base.tars import NOT_IN_KEYS
from ccrop_pipeline.errors import SourceError, counted, shown

_KEYS = ("key", "__key__")
_KINDS_OF_KEY = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_integer, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_dictionary),
)
_LABELS = ("label", "fine_label")
_LABEL = re.compile(r"(.+_)?(label|labels|class|target|category|cls)(_id|_idx|_index)?", re.I)
_LIKE_LABELS = re.compile(
    r"(?:^|_)(labels?|class(es)?|targets?|categor(y|ies)|cls)(?:_|$|\d)", re.I
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that matter.

    Attributes:
        image: Encoded bytes, or a struct of `bytes` and maybe `path`.
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


def open_parquet(path: Path) -> Any:
    """Open a Parquet file.

    Raises:
        SourceError: If it is damaged, or none.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"{path} cannot be read as Parquet ({error}). Fetch or write it again."
        ) from error
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > size:  # no encoded image has less than a byte
        file.close()
        raise SourceError(
            f"{path} has {counted(rows, 'row')} in {size:,} bytes, which cannot be images. Fetch "
            "or write it again."
        )
    return file


def has_images(path: Path) -> bool:
    """Tell whether a file may hold images; one that is damaged may."""
    try:
        with open_parquet(path) as file:
            return any(_holds_images(column.type) for column in file.schema_arrow)
    except SourceError:
        return True


def find_columns(schema: Any, path: Path) -> Columns:
    """Choose the columns: by name, and the image by type where it has another name.

    Raises:
        SourceError: If no column or several could be the image, or the label or key is of a type
            that is none.
    """
    found = [c.name for c in schema if _holds_images(c.type) and c.name not in _KEYS]
    if "image" in found:
        found = ["image"]
    if len(found) != 1:
        raise SourceError(
            f"{path} has {counted(len(found), 'column')} that could hold images"
            f"{' (' + ', '.join(found) + ')' if found else ''}; its columns are "
            f"{', '.join(f'{column.name}: {column.type}' for column in schema)}. Name one `image`, "
            "of type struct<bytes, path> or binary."
        )
    twice = [name for name in (*_KEYS, *_LABELS, *found) if schema.names.count(name) > 1]
    if twice:
        raise SourceError(f"{path} has several columns `{twice[0]}`. Name each as no other is.")
    key = next((name for name in _KEYS if name in schema.names), None)
    if key and not any(is_kind(schema.field(key).type) for is_kind in _KINDS_OF_KEY):
        raise SourceError(
            f"column `{key}` of {path} is {schema.field(key).type}; a key is a text or a whole "
            "number. Write it as one, or rename the column."
        )
    if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
        raise SourceError(
            f"column `label` of {path} is {schema.field('label').type}; a label is a whole number."
        )
    return Columns(image=found[0], key=key, label=_label_of(schema))


def _label_of(schema: Any) -> str | None:
    """Return the column of labels: `label`, or the only one of whole numbers that is named so.

    Of CIFAR-100's two it is the finer one. Of others nobody can tell.
    """
    whole = [column.name for column in schema if pa.types.is_integer(column.type)]
    numbers = [name for name in whole if _LABEL.fullmatch(name)]
    chosen = next((name for name in _LABELS if name in numbers), None)
    return chosen or (numbers[0] if len(numbers) == 1 else None)


def ignored_columns(path: Path) -> list[tuple[str, str]]:
    """Return what columns that are not read may be, and their names; none of a damaged file."""
    try:
        with open_parquet(path) as file:
            taken = find_columns(file.schema_arrow, path).needed
            others = [column for column in file.schema_arrow if column.name not in taken]
    except SourceError:
        return []
    images = [("columns of images", each.name) for each in others if _holds_images(each.type)]
    labels = [each.name for each in others if _LIKE_LABELS.search(each.name)]
    return images + [("columns that may be labels", name) for name in labels]


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def keys_of(batch: Any, columns: Columns, path: Path) -> tuple[Any, list[str]]:
    """Return the images of a record batch as an Arrow large_binary array, and their keys.

    A key is the row's `key`, else the path Hugging Face keeps beside the bytes, else the
    xxh3 of the bytes in hexadecimal: never the position, which moves when rows are filtered.

    Raises:
        SourceError: If a row has no image bytes, or a key that is no text.
    """
    column = batch.column(columns.image)
    struct = pa.types.is_struct(column.type)
    images = (pc.struct_field(column, "bytes") if struct else column).cast(pa.large_binary())
    names: list[str | None] = [None] * len(images)
    if columns.key is not None:
        names = _texts(batch.column(columns.key), columns.key, path)
    elif struct and column.type.get_field_index("path") >= 0:
        names = _texts(pc.struct_field(column, "path"), f"{columns.image}.path", path)
    if images.null_count:
        row = pc.index(pc.is_null(images), True).as_py()
        raise SourceError(
            f"{path} holds a row without image bytes (named {names[row]!r}): images must be in "
            "the table, not beside it."
        )
    keys = [
        name or xxhash.xxh3_64_hexdigest(image.as_py())
        for name, image in zip(names, images, strict=True)
    ]
    if wrong := next((key for key in keys if NOT_IN_KEYS.search(key)), None):
        raise SourceError(
            f"{path} holds a row named {shown(wrong)}, with a control character, and keys have "
            "none. Rename it."
        )
    return images, keys


def _texts(column: Any, name: str, path: Path) -> list[str | None]:
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
        return texts
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(
            f"column `{name}` of {path} holds what is no key ({error}). Keys are UTF-8 texts."
        ) from error


def labels_of(batch: Any, columns: Columns, path: Path) -> NDArray[np.int64]:
    """Return the labels of a record batch, shape `(n,)`, negative where unknown.

    Raises:
        SourceError: If one has more than 63 bits.
    """
    if columns.label is None:
        return np.full(batch.num_rows, -1, dtype=np.int64)
    try:
        filled = pc.fill_null(batch.column(columns.label).cast(pa.int64()), -1)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"column `{columns.label}` of {path} holds a label of more than 63 bits ({error}). "
            "Number the classes from 0 on."
        ) from error
    labels: NDArray[np.int64] = np.maximum(filled.to_numpy(zero_copy_only=False), -1)
    return labels
