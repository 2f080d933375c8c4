"""Refreshes beside training: another process computes boxes from the newest checkpoint."""

import time
from collections.abc import Callable

import torch

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import ComputeObserver, Share
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import Source
from ccrop_pipeline.train.refresh import newest_boxes, newest_checkpoint, refresh_boxes
from ccrop_pipeline.train.run import Run


class FollowObserver(ComputeObserver):
    """Hears of everything and says nothing; a display overrides what it shows."""

    def waiting(self, what: str) -> None:
        """Nothing is to be done until something happens; called once for each time."""

    def refreshing(self, epoch: int) -> None:
        """Boxes are about to be computed from the checkpoint after so many epochs."""

    def refreshed(self, box_set: BoxSet, seconds: float) -> None:
        """A box set is complete, after so many seconds."""


def follow(
    run: Run,
    open_source: Callable[[str], Source],
    device: torch.device,
    threads: int,
    observer: FollowObserver,
    poll_seconds: float = 5.0,
    share: Share | None = None,
) -> int:
    """Computes boxes for a run with `boxes.overlapped` until it ends.

    Always from the newest checkpoint that the run has left: where computing is slower than
    training, those in between are passed over.

    Args:
        run: The run; it need not have begun.
        open_source: Opens the images, given where they lay when the run was started.
        device: Where the encoder runs.
        threads: Decoding threads.
        observer: Hears how it goes.
        poll_seconds: Time between looks at the folder of the run.
        share: Which shards are for this process; None: all.

    Returns:
        Number of box sets that were computed.

    Raises:
        CcropError: When the run computes its boxes itself, or its images are not to be found.
    """
    _wait_for(lambda: run.exists, "the run to begin", observer, poll_seconds)
    started = run.started()
    if not started["recipe"]["boxes"]["overlapped"]:
        raise CcropError(
            f"{run.folder} computes its boxes itself. Start it with --set boxes.overlapped=true "
            "to let another process do so"
        )
    source = open_source(run.location())
    if source.fingerprint() != started["source"]["fingerprint"]:
        raise CcropError(f"{source.location} does not hold the images of the run {run.folder}")
    done, epochs = 0, started["recipe"]["epochs"]
    while _wait_for_work(run, epochs, observer, poll_seconds):
        epoch = newest_checkpoint(run.folder)
        assert epoch is not None
        observer.refreshing(epoch)
        begun = time.perf_counter()
        box_set = refresh_boxes(
            run.folder, epoch, source, device, threads, observer, share or Share(0, 1)
        )
        if box_set is not None:
            observer.refreshed(box_set, time.perf_counter() - begun)
        done += 1
    return done


def _wait_for_work(run: Run, epochs: int, observer: FollowObserver, poll_seconds: float) -> bool:
    """Waits for a checkpoint without boxes; False when the run has ended."""

    def ended() -> bool:
        records = run.metrics()
        return bool(records) and records[-1]["epoch"] >= epochs

    def due() -> bool:
        checkpoint = newest_checkpoint(run.folder)
        return checkpoint is not None and checkpoint > (newest_boxes(run.folder) or 0)

    _wait_for(lambda: ended() or due(), "a checkpoint", observer, poll_seconds)
    return not ended()


def _wait_for(
    condition: Callable[[], bool], what: str, observer: FollowObserver, poll_seconds: float
) -> None:
    if not condition():
        observer.waiting(what)
    while not condition():
        time.sleep(poll_seconds)
