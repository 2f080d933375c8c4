"""`ccrop boxes follow`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccrop_pipeline.errors import CcropError

from .model_options import device_option
from .option_types import FiniteRange, LocalPath
from .printing import print_line
from .rank_options import rank_options

if TYPE_CHECKING:
    from .compute_progress import ComputeProgress


@click.command("follow")
@click.argument("run", type=LocalPath())
@click.option(
    "--source",
    metavar="SOURCE",
    help="Where the images are.  [default: as the run found them]",
)
@device_option
@click.option(
    "--poll",
    type=FiniteRange(0, 86_400, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between looks at the run.",
)
@rank_options("torchrun or srun")
def follow(
    run: Path,
    source: str | None,
    device: str,
    poll: float,
    rank: int | None,
    world_size: int | None,
) -> None:
    """Compute boxes for RUN while it trains, on another device or host.

    The run must have been started with --set boxes.overlapped=true. Boxes are computed from the
    newest checkpoint that it has left; it takes them up at the first epoch that finds them
    complete. Ends with the run. May be started before it. Several processes, started by torchrun,
    srun or with --rank and --world-size, share the shards out.

    \b
    Example:
      ccrop boxes follow runs/beside --device cuda:1
    """
    if not run.absolute().parent.is_dir():
        raise CcropError(
            f"no run can begin at {run}: there is no folder {run.parent}. Correct the path, or "
            "make the folder first."
        )
    from ccrop_pipeline.base import Ranks
    from ccrop_pipeline.localize import open_device
    from ccrop_pipeline.training import Run
    from ccrop_pipeline.training import follow as follow_run
    from ccrop_pipeline.training.run import expect_no_command

    from .sources import open_source

    done = follow_run(
        Run(run),
        lambda spec: open_source(source or expect_no_command(run, spec)),
        device=open_device(device),
        threads=os.cpu_count() or 1,
        observer=_observer(),
        poll_seconds=poll,
        ranks=Ranks.from_environment(rank, world_size),
    )
    print_line(f"{run}: {done} box sets completed")


def _observer() -> "ComputeProgress":
    from ccrop_pipeline.boxset import BoxSet

    from .boxes_audit import warn_if_useless
    from .boxes_info import box_rule
    from .compute_progress import ComputeProgress
    from .progress import say

    class FollowLog(ComputeProgress):
        """A line for everything that happens: this runs beside something else, unattended."""

        def waiting(self, what: str) -> None:
            say(f"waiting for {what}")

        def refreshing(self, epoch: int) -> None:
            say(f"computing boxes from the checkpoint after epoch {epoch}")

        def refreshed(self, boxes: str, seconds: float | None) -> None:
            assert seconds is not None
            box_set = BoxSet.open(boxes)
            self._drop()
            rate, area = self._done / seconds, box_set.manifest.statistics.mean_area
            speed = f"{seconds:.1f} s, {rate:,.0f} images/s"
            say(f"{boxes} after {speed}, mean area {area:.0%}, {box_rule(box_set)}")
            warn_if_useless(box_set)

    return FollowLog(None)
