"""Any source, or any samples, into deterministic WebDataset tar shards."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import sync, writing
from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.base.tars import LONGEST_KEY, NOT_IN_KEYS, name_in_tar
from ccrop_pipeline.errors import CcropError, SettingError, SourceError, shortened
from ccrop_pipeline.images.decode import extension_by_content, extension_by_name
from ccrop_pipeline.images.opening import open_source
from ccrop_pipeline.images.source import CLASSES_FILE, RECORD, Sample, Source, write_classes
from ccrop_pipeline.images.tar import refuse_wrong_keys


@dataclass(frozen=True)
class PackSummary:
    """What `pack` wrote.

    Attributes:
        out: The folder.
        shards: Names of the shards, in order.
        images: Number of images.
        bytes: Size of all tars together.
        was_there: Whether the same call had packed it before, and nothing was written.
    """

    out: Path
    shards: tuple[str, ...]
    images: int
    bytes: int
    was_there: bool = False


def pack(
    samples: Source | Iterable[Sample] | str | Path,
    out: str | Path,
    *,
    prefix: str = "data",
    keys: Literal["key", "shard/key"] = "key",
    max_images: int = 10_000,
    max_bytes: int = 500_000_000,
    observer: Observer = SILENT,
) -> PackSummary:
    """Write `OUT/PREFIX-000000.tar` and so on: images unchanged, labels, annotations.

    The same samples give the same bytes. Everything is written into `OUT.partial`, by one process
    at a time, and moved to `OUT` when complete; a run that was stopped leaves no `OUT`, and the
    next starts anew. The same call on a source that it has packed writes nothing. Images are not
    decoded: damaged ones are packed as they are.

    Args:
        samples: A source, what `open_source` opens, or samples in the order wanted.
        out: Folder to make; it may exist if empty.
        prefix: Start of the shard names.
        keys: `key`, or `shard/key` to put the name of a source's shard before its keys, where they
            start again in each shard.
        max_images: Most images a shard, at least 1.
        max_bytes: Most bytes of images and annotations a shard, except for a single sample
            that is larger.
        observer: Hears of each finished shard.

    Raises:
        CcropError: If `out` is not empty or another process packs into it, two keys become one,
            or there are no samples.
    """
    if max_images < 1 or max_bytes < 1:
        raise SettingError(
            f"max_images is {max_images} and max_bytes {max_bytes}; both must be 1 or more."
        )
    samples = open_source(samples) if isinstance(samples, str | Path) else samples
    out = local_path(out)
    whole = _new_folder(out)
    if keys == "shard/key" and not isinstance(samples, Source):
        raise SettingError("keys is 'shard/key'; samples without a source have no shards.")
    if keys == "key" and isinstance(samples, Source):
        refuse_wrong_keys(samples)
    limits = {"prefix": prefix, "max_images": max_images, "max_bytes": max_bytes}
    made_by = _made_by(samples, limits)
    partial = whole.with_name(whole.name + ".partial")
    # What was killed in its very last steps left an empty one beside what is complete.
    if not partial.exists() and (done := _done(out, made_by)):
        return done
    try:
        with only_writer(partial):
            if done := _done(out, made_by):  # by another process, meanwhile
                return done
            folder = partial / "tars"
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            summary = _fill(folder, out, samples, limits, observer, of_shard=keys == "shard/key")
            if made_by:
                _write_record(folder, made_by, summary)
            with writing(whole):
                sync(folder)
                folder.rename(whole)
                sync(whole.parent)
    finally:
        with suppress(OSError):  # not empty: a run that was stopped, or files of others
            partial.rmdir()
    return summary


def _fill(
    folder: Path,
    out: Path,
    samples: Source | Iterable[Sample],
    limits: dict[str, Any],
    observer: Observer,
    *,
    of_shard: bool,
) -> PackSummary:
    images, size, shards = 0, 0, []
    read = _read_all(samples, of_shard=of_shard) if isinstance(samples, Source) else samples
    for shard in _write_shards(read, folder, **limits):
        shards.append(shard.path.stem)
        images += shard.images
        size += shard.path.stat().st_size
        observer.images_done(shard.images, shard.path.stem)
        observer.shard_written(shard.path.stem, shard.images)
    if not images:
        raise SourceError(f"there are no images to pack into {out}.")
    if isinstance(samples, Source) and samples.classes:
        with writing(folder / CLASSES_FILE):
            write_classes(folder, samples.classes)
            sync(folder / CLASSES_FILE)
    return PackSummary(out, tuple(shards), images, size)


def _write_record(folder: Path, made_by: dict[str, Any], summary: PackSummary) -> None:
    found = {"shards": summary.shards, "images": summary.images, "bytes": summary.bytes}
    with writing(folder / RECORD):
        (folder / RECORD).write_text(json.dumps({**made_by, **found}))
        sync(folder / RECORD)


def _new_folder(out: Path) -> Path:
    """Return the folder without links, since one cannot be moved to a link."""
    whole = out.resolve()
    if not whole.name or whole == Path.cwd() or whole in Path.cwd().parents:
        raise SettingError(f"{out} is the working folder or one above it. Name a new folder.")
    return whole


def _made_by(samples: Source | Iterable[Sample], limits: dict[str, Any]) -> dict[str, Any] | None:
    """Return what makes the tars what they are, None where that is not known beforehand."""
    if not isinstance(samples, Source):
        return None
    try:
        return {"source": samples.fingerprint(), **limits}
    except CcropError:  # such as a server that gives no parts of its files
        return None


def _done(out: Path, made_by: dict[str, Any] | None) -> PackSummary | None:
    """Return what is in `out` if the same call made it, None for a folder still to be filled."""
    with writing(out):
        if not out.exists() or next(out.iterdir(), None) is None:
            return None
    try:
        record = json.loads((out / RECORD).read_bytes())
        shards, images, size = (record.pop(name) for name in ("shards", "images", "bytes"))
        there = sum((out / f"{shard}.tar").stat().st_size for shard in shards)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        record, there, size = None, 0, 0
    if made_by is None or record != made_by or there != size:
        raise CcropError(f"{out} is not empty. Choose another folder, or remove it first.")
    return PackSummary(out, tuple(shards), images, size, was_there=True)


def tar_key(key: str) -> str:
    """Turn a key into one that a tar member can carry, by `name_in_tar`.

    Raises:
        CcropError: If the key has no last part, holds a control character, of which box sets take
            none (rule B017), or has over 1,024 characters.
    """
    if key[-1:] in ("", "/") or NOT_IN_KEYS.search(key) or len(key) > LONGEST_KEY:
        why = "; it holds a control character" if NOT_IN_KEYS.search(key) else ""
        raise SourceError(
            f"key {shortened(repr(key))} cannot name an image in a tar{why}: rename the image."
        )
    return name_in_tar(key)


def _write_shards(
    samples: Iterable[Sample], folder: Path, prefix: str, max_images: int, max_bytes: int
) -> Iterator["_TarWriter"]:
    """Yield each tar when it is complete and on disk."""
    writer: _TarWriter | None = None
    count = 0
    renamed = _renamed(samples)
    try:
        for key, sample in renamed:
            if writer and writer.is_full(sample, max_images, max_bytes):
                writer.finish()
                yield writer
                writer = None
            if writer is None:
                writer = _TarWriter(folder / f"{prefix}-{count:06d}.tar")
                count += 1
            writer.add(key, sample)
        if writer is not None:
            writer.finish()
            yield writer
    finally:
        if writer is not None:
            writer.close()


def _read_all(source: Source, *, of_shard: bool) -> Iterator[Sample]:
    for shard in source.shards:
        for sample in source.read(shard):
            yield sample._replace(key=f"{shard}/{sample.key}") if of_shard else sample


def _renamed(samples: Iterable[Sample]) -> Iterator[tuple[str, Sample]]:
    taken: dict[str, str] = {}
    for sample in samples:
        key = tar_key(sample.key)
        if key in taken:
            also = ", or set `keys` to shard/key" if taken[key] == sample.key else ""
            raise SourceError(
                f"keys {taken[key]!r} and {sample.key!r} would both be {key!r} in the tars: "
                f"rename one of the images{also}."
            )
        taken[key] = sample.key
        yield key, sample


class _TarWriter:
    """One tar being written, and how much went into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = 0
        self.bytes = 0
        self._file = path.open("xb")
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, key: str, sample: Sample) -> None:
        for extension, data in _members(sample):
            # TarInfo's defaults are fixed: mode 0644, owner, group and time 0.
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            with writing(self.path):
                self._tar.addfile(info, io.BytesIO(data))
        # TarFile remembers every header it wrote.
        self._tar.members.clear()  # type: ignore[attr-defined]
        self.images += 1
        self.bytes += _payload(sample)

    def is_full(self, sample: Sample, max_images: int, max_bytes: int) -> bool:
        return self.images == max_images or self.bytes + _payload(sample) > max_bytes

    def finish(self) -> None:
        """Complete the tar on disk."""
        with writing(self.path):
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def close(self) -> None:
        """Let go of the file, complete or not."""
        with suppress(OSError):  # of a disk that failed, which was said already
            self._file.close()


def _payload(sample: Sample) -> int:
    return len(sample.image) + len(sample.annotation or b"")


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    by_content = extension_by_content(sample.image)
    # A damaged image still needs an extension by which it is found again as an image.
    yield by_content or extension_by_name(sample.key) or "jpg", sample.image
    if sample.label is not None:
        yield "cls", str(sample.label).encode()
    if sample.annotation is not None:
        yield "json", sample.annotation
