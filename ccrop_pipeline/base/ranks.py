"""Which shards are for this process: told by flags, by torchrun or by SLURM."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccrop_pipeline.errors import CcropError

_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")


@dataclass(frozen=True)
class Share:
    """One of `world_size` equal shares.

    Attributes:
        rank: Which one, from 0.
        world_size: How many there are.

    Raises:
        ValueError: If there is no such share.
    """

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Refuse a share that does not exist."""
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in [0, world size), not {self.rank} of {self.world_size}"
            )

    def of(self, shards: Sequence[str]) -> tuple[str, ...]:
        """Give the shards of this share: every `world_size`-th, so that all shares end together.

        The shares of one world size have no shard in common and leave none out.
        """
        return tuple(shards[self.rank :: self.world_size])

    @classmethod
    def from_environment(
        cls,
        rank: int | None = None,
        world_size: int | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> "Share":
        """Find the share of this process.

        Flags go first; then `RANK` and `WORLD_SIZE`, which torchrun sets; then the tasks of a
        SLURM step, of a SLURM array, or of every job of an array. A process of which nobody
        says anything is alone.

        Args:
            rank: From a flag.
            world_size: From a flag.
            environment: Environment variables.

        Raises:
            CcropError: If one of the two is missing, or the numbers name no share.
        """
        given = {"--rank": rank, "--world-size": world_size}
        if any(number is not None for number in given.values()):
            return _share(given, "flags")
        torchrun = {name: _number(environment, name) for name in ("RANK", "WORLD_SIZE")}
        if any(number is not None for number in torchrun.values()):
            return _share(torchrun, "environment variables")
        return _slurm(environment)


def own_gpu(gpus: int, environment: Mapping[str, str] = os.environ) -> int:
    """Tell which of the GPUs that this process sees is its own.

    torchrun and SLURM count the processes of a machine. Where each process is shown its own GPU
    only, that one is number 0.

    Args:
        gpus: How many it sees, at least 1.
        environment: Environment variables.

    Raises:
        CcropError: If `LOCAL_RANK` or `SLURM_LOCALID` is no integer.
    """
    places = (_number(environment, name) for name in ("LOCAL_RANK", "SLURM_LOCALID"))
    return next((place for place in places if place is not None), 0) % gpus


def _share(numbers: Mapping[str, int | None], kind: str) -> Share:
    (first, rank), (second, world_size) = numbers.items()
    if rank is None or world_size is None:
        there, missing = (second, first) if rank is None else (first, second)
        raise CcropError(f"{there} is given without {missing}: the two {kind} go together.")
    try:
        return Share(rank, world_size)
    except ValueError:
        raise CcropError(
            f"{first} {rank} and {second} {world_size} name no share: ranks run from 0 to "
            f"{second} - 1. Put the {kind} right."
        ) from None


def _slurm(environment: Mapping[str, str]) -> Share:
    task = {name: _number(environment, name) for name in ("SLURM_PROCID", "SLURM_NTASKS")}
    # The script of a job has a rank and no number of tasks where none was asked for.
    alone = task["SLURM_NTASKS"] is None
    tasks = Share(0, 1) if alone else _share(task, "environment variables")
    jobs = _array(environment)
    rank = jobs.rank * tasks.world_size + tasks.rank
    return Share(rank, jobs.world_size * tasks.world_size)


def _array(environment: Mapping[str, str]) -> Share:
    numbers = [_number(environment, name) for name in (*_ARRAY, "SLURM_ARRAY_TASK_COUNT")]
    if numbers[0] is None:
        return Share(0, 1)
    index, first, last, count = (0 if number is None else number for number in numbers)
    # An array may be 0-9, 1-10 or 0-18:2.
    step, rest = divmod(last - first, count - 1) if count > 1 else (1, 0)
    rank, odd = divmod(index - first, step) if step > 0 else (-1, 0)
    if rest or odd or not 0 <= rank < count:
        raise CcropError(
            f"the place of task {index} in a SLURM array of {count} tasks from {first} to {last} "
            "is not clear. Use an array without gaps, such as --array=0-9, or give --rank and "
            "--world-size."
        )
    return Share(rank, count)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise CcropError(
            f"the environment variable {name} is {text!r} and no integer. Unset it, or give "
            "--rank and --world-size."
        ) from None
