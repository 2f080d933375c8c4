"""Gathering the rows of a shard and writing it, while the next one is being computed."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from ccrop_pipeline.boxset import UNREADABLE, BoxTable, Location, Provenance, write_shard_once
from ccrop_pipeline.compute.batches import ShardBatch
from ccrop_pipeline.compute.locate import Located
from ccrop_pipeline.compute.observer import ComputeObserver, StageSeconds
from ccrop_pipeline.compute.repeats import Repeats
from ccrop_pipeline.compute.settings import ComputeSettings
from ccrop_pipeline.errors import CcropError

_NAMED = 3


class ShardWriter:
    """Takes batches in order; writes every shard in a thread once its last batch is there.

    Args:
        folder: The box set.
        provenance: What to write into every shard.
        settings: Form, whether heatmaps are kept, how much may be unreadable.
        stages: Is told of the time that writing takes.
        observer: Hears of each shard written.
    """

    def __init__(
        self,
        folder: Location,
        provenance: Provenance,
        settings: ComputeSettings,
        stages: StageSeconds,
        observer: ComputeObserver,
    ) -> None:
        self._folder, self._provenance, self._settings = folder, provenance, settings
        self._stages, self._observer = stages, observer
        self._gathered: list[tuple[ShardBatch, Located]] = []
        self._repeats = Repeats()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None and self._writing:
            self._writing.result()

    def add(self, batch: ShardBatch, located: Located) -> None:
        """Takes the rows of a batch.

        Raises:
            CcropError: Too many images of the shard are unreadable, a key was seen before, or
                the shard before this one could not be written.
        """
        self._gathered.append((batch, located))
        if not batch.last:
            return
        table = _table(self._gathered, self._settings.heatmaps)
        self._gathered = []
        _check_readable(table, batch.shard, self._settings.max_bad)
        self._repeats.check(batch.shard, table.keys)
        if self._writing:  # one shard at a time waits to be written: memory stays flat
            self._writing.result()
        self._writing = self._pool.submit(self._write, batch.shard, table)

    def _write(self, shard: str, table: BoxTable) -> None:
        started = time.perf_counter()
        write_shard_once(self._folder, shard, table, self._provenance, self._settings.form)
        self._stages.write += time.perf_counter() - started
        unreadable = int((table.status == UNREADABLE).sum())
        self._observer.shard_written(shard, len(table), unreadable)


def _table(gathered: list[tuple[ShardBatch, Located]], heatmaps: bool) -> BoxTable:
    # An empty batch has no grid: it only says that the shard has ended.
    rows = [located for batch, located in gathered if batch.keys] or [gathered[0][1]]
    keep = heatmaps and bool(gathered[0][0].keys)
    return BoxTable(
        keys=[key for batch, _ in gathered for key in batch.keys],
        boxes=np.concatenate([part.boxes for part in rows]),
        sizes=np.concatenate([part.sizes for part in rows]),
        status=np.concatenate([part.status for part in rows]),
        image_hash=np.array([value for batch, _ in gathered for value in batch.hashes], np.uint64),
        heatmaps=np.concatenate([part.heatmaps for part in rows]) if keep else None,
    )


def _check_readable(table: BoxTable, shard: str, max_bad: float) -> None:
    bad = np.flatnonzero(table.status == UNREADABLE)
    allowed = max(1, math.floor(max_bad * len(table)))
    if len(bad) > allowed:
        names = ", ".join(repr(table.keys[row]) for row in bad[:_NAMED])
        raise CcropError(
            f"{len(bad)} of the {len(table)} images of the shard {shard!r} cannot be decoded, such "
            f"as {names}; at most {allowed} may be (--max-bad {max_bad:g}). The shard was not "
            "written: mend the images, or allow more"
        )
