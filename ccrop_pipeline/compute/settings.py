"""How boxes are computed: what differs from machine to machine, and what is kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ComputeSettings:
    """How boxes are computed, apart from the encoder, the heatmap and the rule.

    Args:
        batch_size: Images a forward pass; None: by their pixels, see `default_batch_size`. On a
            GPU, a batch that does not fit into its memory is cut in halves.
        threads: Decoding threads; None: as many as there are cores, or half of them where the
            encoder itself needs the cores.
        heatmaps: Whether heatmaps are kept beside the boxes.
        form: `parquet` or `webdataset`.
        max_bad: Greatest share of the images of a shard that may be unreadable, in [0, 1], at
            least one image; a shard with more is not written and ends the computation.

    Raises:
        ValueError: A number is out of its range.
    """

    batch_size: int | None = None
    threads: int | None = None
    heatmaps: bool = True
    form: str = "parquet"
    max_bad: float = 1.0

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad must be in [0, 1], not {self.max_bad}")
