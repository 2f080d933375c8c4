"""What a loader hands to a training step."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base.workers import one_ahead
from ccrop_pipeline.crops import key_hash
from ccrop_pipeline.errors import counted


@dataclass
class Batch:
    """Views of some images.

    Attributes:
        views: One tensor a group of views, with the group's number V and side S of views. From a
            `ViewLoader`: float32 (V, B, 3, S, S), normalised by the mean and the standard
            deviation of ImageNet, on its device. Before the augmentation: uint8 crops of the same
            shape, on the CPU, or where a resident data set is.
        key_hashes: int64 (B,), the bits of the unsigned hash of each key; on the CPU.
        labels: int64 (B,), -1 where an image has none; on the CPU.
        readable: bool (B,), False for images that could not be decoded, whose crops are grey; on
            the CPU.
        problems: Key and reason of those images, by their `key_hashes`.
    """

    views: tuple[Tensor, ...]
    key_hashes: Tensor
    labels: Tensor
    readable: Tensor
    problems: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def rows(self, rows: slice) -> "Batch":
        """Return some of the images."""
        views = tuple(group[:, rows] for group in self.views)
        hashes = self.key_hashes[rows]
        problems = {own: self.problems[own] for own in hashes.tolist() if own in self.problems}
        return Batch(views, hashes, self.labels[rows], self.readable[rows], problems)

    @classmethod
    def join(cls, batches: Sequence["Batch"]) -> "Batch":
        """Return the images of several batches as one."""
        groups = zip(*(batch.views for batch in batches), strict=True)
        return cls(
            tuple(_along_images(views) for views in groups),
            torch.cat([batch.key_hashes for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
            torch.cat([batch.readable for batch in batches]),
            {own: text for batch in batches for own, text in batch.problems.items()},
        )

    def pin_memory(self) -> "Batch":
        """Pin the crops for asynchronous copies to a GPU; a `DataLoader` calls this."""
        self.views = tuple(group.pin_memory() for group in self.views)
        return self

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Key hashes as uint64 (B,), the type that random numbers are drawn from."""
        return self.key_hashes.numpy().view(np.uint64)


def make_batch(
    views: tuple[Tensor, ...],
    hashes: NDArray[np.uint64],
    labels: NDArray[np.int64],
    problems: Mapping[int, str],
) -> Batch:
    """Return a batch of B images from arrays (B,), none of which is copied.

    Args:
        views: As in `Batch`.
        hashes: uint64 (B,).
        labels: int64 (B,).
        problems: Key and reason of the images that cannot be decoded, by row.
    """
    readable, own = np.ones(len(hashes), bool), hashes.view(np.int64)
    readable[list(problems)] = False
    by_hash = {int(own[row]): text for row, text in problems.items()}
    rows = [torch.from_numpy(values) for values in (own, labels, readable)]
    return Batch(views, rows[0], rows[1], rows[2], by_hash)


def unreadable_note(problems: Sequence[str], file: Path | None = None) -> str:
    """Return a warning of images that cannot be decoded: how many, and the first ten.

    Args:
        problems: Key and reason of each.
        file: What lists all of them.
    """
    more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
    listed = f"; {file} lists all" if file else ""
    return (
        f"{counted(len(problems), 'image')} cannot be decoded, shown as grey or left out: "
        f"{', '.join(sorted(problems)[:10])}{more}{listed}. Repair them, or leave them out next "
        "time."
    )


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Return the hashes of n keys as uint64 (n,)."""
    return np.fromiter(map(key_hash, keys), np.uint64)


def _along_images(groups: tuple[Tensor, ...]) -> Tensor:
    if groups[0].is_floating_point():  # augmented, in planes
        return torch.cat(groups, dim=1)
    # Joined as they lie in memory, with the channels last, which `cat` alone would not keep.
    stored = torch.cat([group.permute(0, 1, 3, 4, 2) for group in groups], dim=1)
    return stored.permute(0, 1, 4, 2, 3)


def ahead_on_gpu(make: Callable[[], Iterator[Batch]], device: torch.device) -> Generator[Batch]:
    """Yield batches that a thread and a stream of their own make while the GPU trains.

    To launch the many small kernels of a batch takes the host longer than it takes the GPU to run
    them; meanwhile the training step waits for its loss or its gradients, without the interpreter.

    Args:
        make: Begins to make the batches, all in the memory of the device.
        device: The GPU.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))  # which has put the images there

    def made() -> Generator[tuple[Batch, torch.cuda.Event]]:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for batch in make():
                yield batch, stream.record_event()

    with closing(one_ahead(made())) as batches:
        for batch, event in batches:
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            for views in batch.views:
                views.record_stream(current)  # its memory is not used anew before
            yield batch
