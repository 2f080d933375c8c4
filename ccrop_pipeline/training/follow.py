"""Refreshes beside training: another process computes boxes from the newest checkpoint."""

import shutil
import time
from collections.abc import Callable

import torch

from ccrop_pipeline.base import ALONE, Observer, Ranks
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Source
from ccrop_pipeline.recipes.plan import box_folder
from ccrop_pipeline.training.refresh import due_boxes, left_to_others, refresh_boxes
from ccrop_pipeline.training.run import Run


def follow(
    run: Run,
    open_source: Callable[[str], Source],
    device: torch.device,
    threads: int,
    observer: Observer,
    poll_seconds: float = 5.0,
    ranks: Ranks = ALONE,
) -> int:
    """Compute boxes for a run with `boxes.overlapped` until it ends.

    A set that was begun is completed first, so that all who share the work are at the same one;
    then follows the newest checkpoint that the run has left: where computing is slower than
    training, those in between are passed over. When another run takes the place of the run, as
    when it is overwritten, that one is followed from then on.

    Args:
        run: The run; it need not have begun.
        open_source: Opens the images, given what opened them for the run.
        device: Where the encoder runs.
        threads: Decoding threads.
        observer: Hears how it goes.
        poll_seconds: Time between looks at the folder of the run.
        ranks: Who this process is among those that follow.

    Returns:
        Number of box sets that this process completed.

    Raises:
        CcropError: If the run computes its boxes itself, or its images are not to be found.
    """
    poll, done = _Poll(observer, poll_seconds), 0
    while True:
        while not run.exists:
            poll.wait("the run to begin")
        follower = _Follower(run, open_source, device, threads, observer, ranks)
        while (epoch := follower.next(poll)) is not None:
            done += follower.compute(epoch)
        if not follower.replaced:
            return done


class _Poll:
    """Time between looks; what is waited for is said once."""

    def __init__(self, observer: Observer, seconds: float) -> None:
        self._observer, self._seconds, self._said = observer, seconds, ""

    def wait(self, what: str) -> None:
        if what != self._said:
            self._observer.waiting(what)
        self._said = what
        time.sleep(self._seconds)

    def over(self) -> None:
        self._said = ""


class _Follower:
    """Follows a run that has begun, until it ends or another takes its place."""

    def __init__(
        self,
        run: Run,
        open_source: Callable[[str], Source],
        device: torch.device,
        threads: int,
        observer: Observer,
        ranks: Ranks,
    ) -> None:
        self._run, self._device, self._threads = run, device, threads
        self._observer, self._ranks = observer, ranks
        # Before anything else is read: what is of a later run is then noticed.
        self._id = run.id
        started = run.started()
        if not started["recipe"]["boxes"]["overlapped"]:
            raise CcropError(
                f"{run.folder} computes its boxes itself. Start it with "
                "boxes.overlapped=true to let another process do so."
            )
        self._epochs = started["recipe"]["epochs"]
        self._source = open_source(run.source())
        if self._source.fingerprint() != started["source"]["fingerprint"]:
            raise CcropError(
                f"{self._source.location} does not hold the images of the run {run.folder}"
            )

    @property
    def replaced(self) -> bool:
        """Whether another run lies there by now."""
        return self._run.exists and self._run.id != self._id

    def next(self, poll: _Poll) -> int | None:
        """Wait for boxes to compute; return their epoch, None when the run has ended."""
        while not self.replaced:
            if self._ended():
                return None
            if (epoch := due_boxes(self._run.folder)) is None:
                poll.wait("a checkpoint")
            elif left_to_others(self._run.folder, epoch, self._source, self._ranks):
                poll.wait(f"the other portions of {box_folder(epoch)}")
            else:
                poll.over()
                return epoch
        return None

    def compute(self, epoch: int) -> bool:
        """Compute the boxes of an epoch; return whether they are complete."""
        folder = self._run.folder / box_folder(epoch)
        # At once, and not with the first shard: those who share the work look for it.
        folder.mkdir(parents=True, exist_ok=True)
        self._observer.refreshing(epoch)
        begun = time.perf_counter()
        try:
            box_set = refresh_boxes(
                self._run.folder,
                epoch,
                self._source,
                self._device,
                self._threads,
                self._observer,
                self._ranks,
            )
        except (CcropError, OSError):
            if not self.replaced:
                raise
            box_set = None
        if self.replaced:  # these are boxes of the weights of a run that is no more
            shutil.rmtree(folder, ignore_errors=True)
        elif box_set is not None:
            self._observer.refreshed(str(folder), time.perf_counter() - begun)
            return True
        return False

    def _ended(self) -> bool:
        records = self._run.metrics()
        return bool(records) and records[-1]["epoch"] >= self._epochs
