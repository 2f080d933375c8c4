"""The same work on a Ray cluster: one task a shard, on workers that keep their encoder.

Ray places the workers, starts them elsewhere when their node is gone, and runs their shard again.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ccrop_pipeline.base import SILENT, Location, Observer, StageSeconds
from ccrop_pipeline.boxset import (
    BoxSet,
    Provenance,
    left_to_write,
    refuse_foreign,
    shard_is_complete,
    write_manifest,
)
from ccrop_pipeline.compute.box_sets import (
    check_numbers,
    default_batch_size,
    default_threads,
)
from ccrop_pipeline.compute.choice import forget, provenance_of, settle, worthless
from ccrop_pipeline.compute.locating import compute_shards
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Source, refuse_wrong_keys
from ccrop_pipeline.localize import Localizer, rule_of

# A worker that ends so often is not unlucky with its nodes: an image crashes a decoder, or a node
# has too little memory.
_RESTARTS = 20


def compute_boxes_with_ray(
    source: Source,
    open_localizer: Callable[[], Localizer],
    folder: Location,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    heatmaps: bool = True,
    form: str = "parquet",
    max_bad: float = 1.0,
    workers: int | None = None,
    gpu_share: float = 0.0,
    observer: Observer = SILENT,
) -> BoxSet:
    """Compute the box of every image of a source on a Ray cluster, and write a box set.

    Every node needs this package, and sees source and folder under the same path or address.
    The cluster is the one that is connected to, else that of `RAY_ADDRESS`, else this machine.

    Args:
        source: Images.
        open_localizer: Opens encoder, heatmap and rule; called in each worker.
        folder: Where the box set goes, a path or an address that fsspec knows. Complete shards
            of the same encoder, rule and source that are already there are kept.
        batch_size: As in `compute_boxes`, like `heatmaps`, `form` and `max_bad`.
        threads: Images decoded at a time, and the cores that a worker asks for; None: as many as
            this machine has.
        heatmaps: Whether heatmaps are kept beside the boxes.
        form: `parquet` or `webdataset`.
        max_bad: Greatest share of the images of a shard that may be unreadable, in [0, 1].
        workers: How many workers; None: as many as fit into the cluster as it now is.
        gpu_share: The GPUs that a worker asks for; 0.5 lets two share one.
        observer: Hears how it goes, shard by shard; stages add up over all workers.

    Raises:
        CcropError: If Ray is not installed, no node has room for a worker, a worker ended again
            and again, or for any reason of `compute_boxes`.
        SettingError: If a number is out of its range.
    """
    check_numbers(batch_size, threads, max_bad)
    refuse_wrong_keys(source)
    refuse_foreign(folder)
    ray = _imported()
    # Ray prints its news, such as a lost node, where results belong.
    with redirect_stdout(sys.stderr), _connected(ray):
        settings: dict[str, Any] = {"batch_size": batch_size, "threads": threads}
        settings |= {"heatmaps": heatmaps, "form": form, "max_bad": max_bad}
        cores = threads or os.cpu_count() or 1
        pool = _Pool(ray, cores, gpu_share, (source, open_localizer, folder, settings))
        first = pool.start()
        asked, provenance = pool.result(first.provenance.remote())
        choice = provenance.localizer.choice
        if choice and choice.worthless:
            observer.warning(worthless(choice))
        todo = left_to_write(folder, source.shards, provenance, form=form, heatmaps=heatmaps)
        observer.begun(len(todo), len(source.shards) - len(todo))
        extra = min(workers or pool.room(), len(todo)) - 1
        pool.compute([first, *(pool.start() for _ in range(extra))], todo, provenance, observer)
    write_manifest(folder, source.shards, provenance, form=form)
    forget(folder, asked)
    return BoxSet.open(folder)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CcropError(
            f"the engine ray needs Ray ({error}). Run `pip install ray` on every node."
        ) from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    ray.init(logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Done:
    shard: str
    rows: int
    unreadable: int
    stages: StageSeconds


class _Tally(Observer):
    def __init__(self, shard: str) -> None:
        self.done = _Done(shard, 0, 0, StageSeconds())

    def images_done(self, images: int, shard: str = "", stages: StageSeconds | None = None) -> None:
        self.done = _Done(shard, self.done.rows + images, 0, stages or self.done.stages)

    def shard_written(self, shard: str, images: int, unreadable: int = 0) -> None:
        self.done = _Done(shard, images, unreadable, self.done.stages)


class _Worker:
    """What runs in the process of a worker, on any node."""

    def __init__(
        self,
        source: Source,
        open_localizer: Callable[[], Localizer],
        folder: Location,
        settings: dict[str, Any],
        directory: str,
    ) -> None:
        # Relative paths are meant from where the command was started.
        if Path(directory).is_dir():
            os.chdir(directory)
        self._source, self._open_localizer = source, open_localizer
        self._folder, self._settings = folder, settings

    # Opened here and not when the worker starts, where an error could not be told as such.
    @cached_property
    def _localizer(self) -> Localizer:
        return self._open_localizer()

    def provenance(self) -> tuple[Provenance, Provenance]:
        """Return what is asked for, and what makes the boxes once the rule has set itself."""
        asked = provenance_of(self._source, self._localizer)
        settled = settle(
            self._source,
            self._localizer,
            self._folder,
            asked,
            form=self._settings["form"],
            **self._sizes(),
            observer=SILENT,
        )
        return asked, settled

    def _sizes(self) -> dict[str, int]:
        settings, encoder = self._settings, self._localizer.encoder
        return {
            "batch_size": settings["batch_size"] or default_batch_size(encoder),
            "threads": settings["threads"] or default_threads(encoder),
        }

    def compute(self, shard: str, provenance: Provenance) -> _Done:
        tally = _Tally(shard)
        # Ray may run a task again that was done and of which the news was lost.
        settings = self._settings
        if not shard_is_complete(self._folder, shard, provenance, form=settings["form"]):
            assert provenance.localizer is not None
            compute_shards(
                self._source,
                [shard],
                replace(self._localizer, rule=rule_of(provenance.localizer)),
                self._folder,
                provenance,
                **settings | self._sizes(),
                observer=tally,
            )
        return tally.done


class _Pool:
    def __init__(self, ray: Any, cpus: int, gpus: float, arguments: tuple[Any, ...]) -> None:
        self._ray, self._cpus, self._gpus = ray, cpus, gpus
        self._arguments = (*arguments, str(Path.cwd()))
        # Retries are not limited: until Ray believes that a node is gone, it takes it for out of
        # reach and uses up a retry a second.
        self._actor = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_restarts=_RESTARTS, max_task_retries=-1
        )(_Worker)
        if not self.room():
            raise CcropError(
                f"no node of the Ray cluster has room for a worker with `threads` {cpus} and "
                f"`gpu_share` {gpus:g}. Lower them, or add nodes; to compute without GPUs, set "
                "`device` to cpu and `gpu_share` to 0."
            )

    def room(self) -> int:
        """Return how many workers fit into the cluster as it now is."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(self._fitting(node) for node in nodes)

    def _fitting(self, node: dict[str, float]) -> int:
        fitting = int(node.get("CPU", 0) // self._cpus)
        # A share of a GPU is on one GPU.
        share = self._gpus
        if share >= 1:
            fitting = min(fitting, int(node.get("GPU", 0) // share))
        elif share > 0:
            fitting = min(fitting, int(node.get("GPU", 0)) * int(1 / share))
        return fitting

    def start(self) -> Any:
        """Start a worker: its handle."""
        return self._actor.remote(*self._arguments)

    def result(self, task: Any) -> Any:
        """Wait for a task."""
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CcropError):
                raise CcropError(str(error.cause)) from None
            raise
        except self._ray.exceptions.RayActorError as error:
            raise CcropError(
                f"a worker ended {_RESTARTS + 1} times: {error}. Look for crashes and for lack of "
                "memory in the logs of Ray, then run the same command again: what is finished is "
                "kept."
            ) from error

    def compute(
        self,
        workers: Sequence[Any],
        shards: Sequence[str],
        provenance: Provenance,
        observer: Observer,
    ) -> None:
        """Let workers compute shards, one at a time each, until all are there."""
        todo, working, stages = deque(shards), dict[Any, Any](), StageSeconds()

        def give(worker: Any) -> None:
            if todo:
                working[worker.compute.remote(todo.popleft(), provenance)] = worker
            else:
                # Its place is for a worker that lost its node and has a shard to finish. Kept, it
                # could keep that one waiting for ever.
                self._ray.kill(worker)

        for worker in workers:
            give(worker)
        try:
            while working:
                (task, *_), _ = self._ray.wait([*working], num_returns=1)
                done = self.result(task)
                give(working.pop(task))
                for name, seconds in vars(done.stages).items():
                    setattr(stages, name, getattr(stages, name) + seconds)
                observer.images_done(done.rows, done.shard, stages)
                observer.shard_written(done.shard, done.rows, done.unreadable)
        finally:
            for worker in working.values():
                self._ray.kill(worker)
