"""Features of all images of a source, in Parquet for other programs."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccrop_pipeline.base import ALONE, SILENT, Location, Observer, Ranks, open_folder
from ccrop_pipeline.base.values import to_plain
from ccrop_pipeline.boxset import SourceInfo
from ccrop_pipeline.compute.box_sets import check_numbers, default_batch_size, default_threads
from ccrop_pipeline.compute.pipeline import (
    Batch,
    Begin,
    Passes,
    Waiting,
    refuse_repeated,
    run_shards,
)
from ccrop_pipeline.compute.replacing import expect_replaceable, replaced
from ccrop_pipeline.errors import ModelError, SettingError
from ccrop_pipeline.export.embedding_files import EmbeddingFolder, changed, schema, strangers, twice
from ccrop_pipeline.images import Source, image_hash, open_source, refuse_wrong_keys
from ccrop_pipeline.images.squares import ResizedImages
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.localize.encoder import probe_images
from ccrop_pipeline.models import open_encoder

DType = Literal["float32", "float16"]
# Images and shards that are compared with embeddings which are there.
_COMPARED, _COMPARED_SHARDS = 256, 8
_Part = tuple[Any, list[str]]  # a table of rows, and the keys of images that are unreadable


@dataclass(frozen=True)
class Embeddings:
    """A complete folder of embeddings.

    Attributes:
        folder: Where they are.
        images: Number of rows.
        unreadable: Keys of the images that cannot be decoded, and so have no row.
        made_by: Encoder, pooling and source: what every file says of how it was made.
    """

    folder: Location
    images: int
    unreadable: tuple[str, ...]
    made_by: dict[str, Any]


def embed(
    model: Encoder | str | Path,
    source: Source | str | Path,
    out: Location,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    dtype: DType = "float32",
    overwrite: bool = False,
    ranks: Ranks = ALONE,
    observer: Observer = SILENT,
) -> Embeddings | None:
    """Write the pooled features of every image of a source, or of one portion of it, as Parquet.

    They are those of the probes: the mean over the cells of the encoder's feature map.

    Args:
        model: An encoder, or what `open_encoder` opens.
        source: Images, or what `open_source` opens.
        out: A folder, by path or by an address that fsspec knows. Complete shards of the same
            encoder and source that are already there are kept.
        batch_size: Images a forward pass; None: by their pixels. On a GPU, a batch that does not
            fit into its memory is cut in halves.
        threads: Images decoded at a time, by processes for a GPU, else by threads; None: all
            cores, or half of them where the encoder runs on a CPU.
        dtype: Of the numbers, `float32` or `float16`.
        overwrite: Whether to replace embeddings that are in `out` once the new ones are complete.
        ranks: Who this process is, which says its portion of the shards. The one that finds all
            shards there completes the folder.
        observer: Hears how it goes.

    Returns:
        What is there, or None while shards of other processes are missing.

    Raises:
        CcropError: If `out` holds anything else, or embeddings of images that have changed since,
            by a sample of 256; or the source cannot be read or names two images with one key, or
            features are no numbers.
        SettingError: If a setting makes no sense.
    """
    check_numbers(batch_size, threads, 1.0)
    if dtype not in get_args(DType):
        raise SettingError(f"dtype is {dtype!r}; it must be one of {', '.join(get_args(DType))}.")
    encoder = model if isinstance(model, Encoder) else open_encoder(model)
    source = open_source(source) if isinstance(source, str | Path) else source
    made_by = _made_by(source, encoder, dtype)
    embed_into = partial(
        _embed_missing,
        source=source,
        encoder=encoder,
        made_by=made_by,
        batch_size=batch_size or default_batch_size(encoder),
        threads=threads or default_threads(encoder, ranks.local_world_size),
        ranks=ranks,
        observer=observer,
    )
    if overwrite:
        expect = partial(expect_replaceable, out, ranks, strangers, "embeddings")
        expect()
        with replaced(out, expect, made_by) as aside:
            shards = embed_into(aside)
    else:
        shards = embed_into(out)
    if shards is None:
        return None
    unreadable = tuple(key for shard in shards for key in shard["unreadable"])
    return Embeddings(out, sum(shard["rows"] for shard in shards), unreadable, made_by)


def _made_by(source: Source, encoder: Encoder, dtype: str) -> dict[str, Any]:
    return {
        "format": "ccrop-embeddings",
        "version": 1,
        "encoder": to_plain(encoder.info),
        "input_size": encoder.input_size,
        "preprocessing": encoder.preprocessing,
        "pooling": "mean over the cells of the layer's map",
        "channels": encoder.pooled(probe_images(encoder.input_size)[:1]).shape[1],
        "dtype": dtype,
        "source": to_plain(SourceInfo(source.kind, source.fingerprint())),
    }


def _embed_missing(
    out: Location,
    *,
    source: Source,
    encoder: Encoder,
    made_by: dict[str, Any],
    batch_size: int,
    threads: int,
    ranks: Ranks,
    observer: Observer,
) -> list[dict[str, Any]] | None:
    """Write what is missing of this process's portion; return what is there when nothing is."""
    folder = EmbeddingFolder(open_folder(out), source.shards, made_by)
    mine = ranks.portion(source.shards)
    if todo := folder.left(mine):
        refuse_wrong_keys(source)
    _expect_same_images(source, [shard for shard in mine if shard not in {*todo}], folder)
    observer.begun(len(todo), len(mine) - len(todo))
    seen: dict[str, str] = {}

    def finished(shard: str, parts: list[tuple[Batch, _Part]]) -> Callable[[], None]:
        keys = [key for batch, _ in parts for key in batch.keys]
        if len(set(keys)) < len(keys):
            raise twice(Counter(keys).most_common(1)[0][0], f"the shard {shard!r}")
        refuse_repeated(shard, keys, seen)
        table = pa.concat_tables([rows for _, (rows, _) in parts])
        unreadable = [key for _, (_, missing) in parts for key in missing]

        def write() -> None:
            folder.write(shard, table, unreadable)
            observer.shard_written(shard, len(keys), len(unreadable))

        return write

    run_shards(
        source,
        todo,
        encoder,
        begin=_begin(encoder, made_by["channels"], made_by["dtype"], observer),
        written=finished,
        batch_size=batch_size,
        threads=threads,
        observer=observer,
    )
    return folder.complete(source.classes)


def _expect_same_images(source: Source, kept: list[str], folder: EmbeddingFolder) -> None:
    """Refuse images that have changed since their embeddings were written, by a sample of them."""
    some = kept[:: -(-len(kept) // _COMPARED_SHARDS) or 1]
    hashes = {shard: folder.hashes(shard) for shard in some}
    for shard, key, image in _some_images(source, hashes):
        if hashes[shard].get(key, found := image_hash(image)) != found:
            raise changed(key, str(folder.place))


def _some_images(
    source: Source, keys: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, bytes]]:
    """Yield shard, key and bytes of images of some shards: of all over, or of the beginnings."""
    if not source.random_access:
        for shard in keys:
            first = islice(source.read(shard), _COMPARED // _COMPARED_SHARDS)
            yield from ((shard, sample.key, sample.image) for sample in first)
        return
    shard_of = {key: shard for shard in keys for key in keys[shard]}
    index = source.index() if shard_of else None
    places = [at for at, key in enumerate(index.keys) if key in shard_of] if index else []
    for at in places[:: -(-len(places) // _COMPARED) or 1]:
        assert index is not None
        yield shard_of[index.keys[at]], index.keys[at], index.read(at)


def _begin(encoder: Encoder, channels: int, dtype: str, observer: Observer) -> Begin[_Part]:
    passes = Passes(encoder.device, encoder.pooled, observer.batch_halved)
    columns = schema(channels, dtype)

    def begin(batch: Batch, images: ResizedImages) -> Waiting[_Part]:
        wait = passes.begin(images.pixels) if batch.keys else None

        def rows() -> _Part:
            values = np.empty((0, channels)) if wait is None else wait()[images.readable]
            kept = np.flatnonzero(images.readable).tolist()
            keys = [batch.keys[row] for row in kept]
            arrays = [
                pa.array(keys, pa.string()),
                pa.array([batch.labels[row] for row in kept], pa.int64()),
                pa.array([batch.hashes[row] for row in kept], pa.uint64()),
            ]
            cells = pa.array(_as(dtype, values, keys).reshape(-1))
            embeddings = pa.FixedSizeListArray.from_arrays(cells, channels)
            table = pa.table([*arrays, embeddings], schema=columns)
            missing = zip(batch.keys, images.readable, strict=True)
            return table, [key for key, readable in missing if not readable]

        return rows

    return begin


def _as(dtype: str, values: NDArray[Any], keys: list[str]) -> NDArray[Any]:
    """Return the values in another type; refuse what are no numbers in it."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, np.dtype(dtype))
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if not len(wrong):
        return found
    key, row = keys[wrong[0]], values[wrong[0]]
    if np.isfinite(row).all():
        raise SettingError(
            f"the features of {key!r} reach {np.abs(row).max():.3g}, and float16 ends at 65504. "
            "Set `dtype` to float32."
        )
    raise ModelError(
        f"the features of {key!r} are infinite or no numbers. Check the weights of the model, or "
        "set `precision` to fp32."
    )
