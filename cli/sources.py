"""The sources that a command reads, and what it says of them when it ends."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ccrop_pipeline.base.addresses import is_address, is_pipe, local_path
from ccrop_pipeline.errors import CcropError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ccrop_pipeline.images import RemoteTarSource, Source, TarSource

_SHOWN = 10  # classes whose sizes fit a line
_read: ContextVar[list["Source"] | None] = ContextVar("_read", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Remember the sources that are opened in a command."""
    token = _read.set([])
    try:
        yield
    finally:
        _read.reset(token)


def open_source(spec: str | Path, **options: Any) -> "Source":
    """Open a source as `ccrop_pipeline.images.open_source` does, and remember it."""
    from ccrop_pipeline import images

    source = images.open_source(spec, **options)
    remember(source)
    return source


def expect(spec: str) -> None:
    """Refuse a source that is not there, before anything slow begins; it is opened later."""
    from ccrop_pipeline.images import open_source
    from ccrop_pipeline.images.torchvision_data import DATASETS

    known = spec.lower() in {name.lower() for name in DATASETS}
    if not (known or is_address(spec) or is_pipe(spec) or local_path(spec).exists()):
        open_source(spec)


def remember(source: "Source") -> None:
    """Remember a source that was opened elsewhere."""
    if (sources := _read.get()) is not None and source not in sources:
        sources.append(source)


def records() -> list[dict[str, Any]]:
    """Return what is known of each source: its images, the sizes of its classes, what it ignored.

    Of tars it is what this process has read, and `shards_read` says how many of them.
    """
    return [record_of(source) for source in _read.get() or ()]


def record_of(source: "Source") -> dict[str, Any]:
    """Return what is known of a source; see `records`."""
    import numpy as np

    from ccrop_pipeline.images.source import Ignored

    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    problem = ""
    try:
        labels = _labels(source)
        names = source.classes
    except (CcropError, OSError, ValueError) as error:  # such as files that have gone
        problem = str(error)  # only said: the work is done
    read: dict[str, Ignored] = getattr(source, "ignored_read", {})
    ignored = sum(read.values(), getattr(source, "ignored", Ignored()))
    record: dict[str, Any] = {"source": source.location, "images": None, "classes": None}
    if problem:
        record["problem"] = problem
    if _counted_as_read(source):
        record |= {"shards": len(source.shards), "shards_read": len(source.labels_read)}
    if labels is not None:
        known, sizes = np.unique(labels[labels >= 0], return_counts=True)
        named = [names[i] if i < len(names) else str(i) for i in known.tolist()]
        record |= {"images": len(labels), "classes": dict(zip(named, sizes.tolist(), strict=True))}
        record["unlabelled"] = int((labels < 0).sum())
    return record | {
        "ignored": dict(ignored.counts),
        "ignored_first": dict(ignored.first),
    }


def _counted_as_read(source: "Source") -> "TypeGuard[RemoteTarSource | TarSource]":
    """Tell whether reading has counted the labels, so that no tar is gone through once more."""
    from ccrop_pipeline.images import RemoteTarSource, TarSource

    return isinstance(source, RemoteTarSource) or (
        isinstance(source, TarSource) and bool(source.labels_read)
    )


def _labels(source: "Source") -> "NDArray[np.int64]":
    import numpy as np

    from ccrop_pipeline.images import ParquetSource

    if _counted_as_read(source):
        read = sum(source.labels_read.values(), Counter[int]())
        return np.repeat(np.array([*read], np.int64), np.array([*read.values()], np.int64))
    return source.labels() if isinstance(source, ParquetSource) else source.index().labels


def line_of(record: dict[str, Any]) -> str:
    """Return a record for people."""
    return f"{record['source']}: {'; '.join(parts_of(record))}"


def parts_of(record: dict[str, Any]) -> list[str]:
    """Return what a record says, part by part, for people."""
    from ccrop_pipeline.images.source import of_kind

    images, classes, parts = record["images"], record["classes"], []
    if images is not None:
        parts.append(counted(images, "image"))
        if classes and len(classes) <= _SHOWN:
            sizes = ", ".join(f"{name} {size:,}" for name, size in classes.items())
            parts.append(f"{counted(len(classes), 'class')} ({sizes})")
        elif classes:
            least, most = min(classes.values()), max(classes.values())
            sizes = f"{least:,} to " * (least < most) + counted(most, "image")
            parts.append(f"{counted(len(classes), 'class')} of {sizes}")
        if record["unlabelled"]:
            parts.append(f"{record['unlabelled']:,} without a label")
    if record.get("shards_read", 0) < record.get("shards", 0):
        read = f"{record['shards_read']:,} of {record['shards']:,} shards"
        parts.append(f"counted in the {read} that this process has read to their end")
    for kind, count in record["ignored"].items():
        first = record["ignored_first"][kind]
        more = ", ..." if count > len(first) else ""
        parts.append(f"ignored {of_kind(count, kind)} ({', '.join(first)}{more})")
    if "problem" in record:
        parts.append(record["problem"])
    return parts
