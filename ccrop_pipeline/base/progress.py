"""What a computation tells whoever watches it."""

from dataclasses import dataclass


@dataclass
class StageSeconds:
    """Seconds that each stage has been at work so far. Stages work at the same time.

    Attributes:
        read: Reading encoded images from the source.
        decode: Decoding and squeezing, the mean over the decoding threads.
        forward: Forward passes, heatmaps and boxes, waiting for the device included.
        write: Writing shards.
    """

    read: float = 0.0
    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0


class ComputeObserver:
    """Hears of everything and says nothing; a progress display overrides what it shows."""

    def begun(self, shards: int, kept: int) -> None:
        """This process is to compute so many shards; others of its portion were complete."""

    def images_located(self, shard: str, images: int, stages: StageSeconds) -> None:
        """The boxes of some more images of a shard are there."""

    def shard_written(self, shard: str, rows: int, unreadable: int) -> None:
        """A shard is on disk, with so many rows."""

    def batch_halved(self, batch_size: int) -> None:
        """A batch did not fit into the memory of the GPU; from now on this many go at a time."""
