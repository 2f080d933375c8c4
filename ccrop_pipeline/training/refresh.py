"""Box sets of a run: computed from its checkpoints, within training or beside it."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ccrop_pipeline.base import ALONE, SILENT, Observer, Ranks
from ccrop_pipeline.base.files import expect_free
from ccrop_pipeline.boxset import BoxSet, missing_shards
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import BoxRule, Localizer, choose_map
from ccrop_pipeline.recipes.plan import box_folder, checkpoint_file
from ccrop_pipeline.training.checkpoint import load_checkpoint
from ccrop_pipeline.training.run import Run

_NUMBERED = re.compile(r"epoch-(\d+)(\.pt)?")


def refresh_boxes(
    run: Path,
    epoch: int,
    source: Source,
    *,
    device: torch.device,
    threads: int,
    observer: Observer = SILENT,
    ranks: Ranks = ALONE,
) -> BoxSet | None:
    """Compute the boxes of a source, or of a portion of it, from the checkpoint of an epoch.

    Every process reads the same file, so that all use the same weights and statistics.

    Args:
        run: Folder of the run.
        epoch: Epochs that the checkpoint has been trained for.
        source: Images of the run.
        device: Where the encoder runs.
        threads: Images decoded at a time, see `compute_boxes`.
        observer: Hears how it goes.
        ranks: Who this process is.

    Returns:
        The box set, or None while shards of other processes are missing.
    """
    checkpoint = load_checkpoint(run / checkpoint_file(epoch))
    settings = checkpoint.recipe.boxes
    encoder = checkpoint.encoder(device, settings.refresh_from)
    return compute_boxes(
        source,
        Localizer(encoder, choose_map(encoder), BoxRule(settings.threshold)),
        run / box_folder(epoch),
        threads=threads,
        ranks=ranks,
        observer=observer,
    )


def newest_boxes(run: Path, latest: int | None = None) -> int | None:
    """Return the epoch of the newest complete box set of the run; None if there is none.

    Args:
        run: Folder of the run.
        latest: Boxes of later epochs are passed over; None: none are.
    """
    complete = [
        epoch
        for epoch, path in _numbered(run / box_folder(0)).items()
        if (latest is None or epoch <= latest) and (path / "manifest.json").is_file()
    ]
    return max(complete, default=None)


def due_boxes(run: Path) -> int | None:
    """Return the epoch of the boxes that are to be computed next; None: nothing is to be done.

    Told by what is on disk alone, so that all who share the work agree: a set that somebody
    has begun goes before the newest checkpoint, and nothing is older than the newest complete set.
    """
    complete = newest_boxes(run) or 0
    left = {epoch for epoch in _numbered(run / checkpoint_file(0)) if epoch > complete}
    begun = left.intersection(_numbered(run / box_folder(0)))
    return max(begun or left, default=None)


def forget_after(run: Path, epoch: int) -> None:
    """Delete checkpoints and box sets of later epochs, which are about to be trained again.

    On a GPU they come out with other weights in their last digits, of which those boxes are not.
    """
    for example in (checkpoint_file(0), box_folder(0)):
        for later, path in _numbered(run / example).items():
            if later > epoch:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def left_to_others(run: Path, epoch: int, source: Source, ranks: Ranks) -> bool:
    """Tell whether a box set lacks shards, and none of them is of this portion."""
    missing = {*missing_shards(run / box_folder(epoch), source.shards)}
    return bool(missing) and missing.isdisjoint(ranks.portion(source.shards))


def _numbered(example: Path) -> dict[int, Path]:
    folder = example.parent
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(found[1]): path for path in paths if (found := _NUMBERED.fullmatch(path.name))}


def follow(
    run: Run,
    open_source: Callable[[str], Source],
    *,
    device: torch.device,
    threads: int,
    observer: Observer = SILENT,
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
        threads: Images decoded at a time, see `compute_boxes`.
        observer: Hears how it goes.
        poll_seconds: Time between looks at the folder of the run.
        ranks: Who this process is among those that follow.

    Returns:
        Number of box sets that this process completed.

    Raises:
        CcropError: If the run computes its boxes itself, its images are not to be found, or none
            can begin in its folder.
    """
    poll, done = _Poll(observer, poll_seconds), 0
    while True:
        while not run.exists:
            expect_free(run.folder, "run")
            poll.wait(f"a run to begin in {run.folder}; there is none yet")
        follower = _Follower(
            run, open_source, device=device, threads=threads, observer=observer, ranks=ranks
        )
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
        *,
        observer: Observer,
        ranks: Ranks,
        **machine: Any,
    ) -> None:
        self._run, self._observer, self._ranks, self._machine = run, observer, ranks, machine
        # Before anything else is read: what is of a later run is then noticed.
        self._id = run.id
        recipe = run.recipe()
        if not recipe.boxes.overlapped:
            raise CcropError(
                f"{run.folder} computes its boxes itself. Start it with boxes.overlapped=true to "
                "let another process do so."
            )
        self._epochs = recipe.epochs
        self._source = open_source(run.source())
        if self._source.fingerprint() != run.source_fingerprint():
            raise CcropError(
                f"{self._source.location} does not hold the images of the run {run.folder}"
            )

    @property
    def replaced(self) -> bool:
        """Whether another run is there by now."""
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
                observer=self._observer,
                ranks=self._ranks,
                **self._machine,
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
