"""Who this process is among several: told by arguments, by torchrun or by SLURM."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ccrop_pipeline.errors import CcropError, SettingError, counted

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
# srun sets the last two for the tasks of a step. A batch script alone has a rank of 0, and whatever
# number of tasks it asked for, though nobody has started them.
_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
_ARRAY = (
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_COUNT",
)


@dataclass(frozen=True)
class Ranks:
    """One process among `world_size`, and its portion of their work.

    Attributes:
        rank: Number of this process, in [0, world_size).
        world_size: Number of all processes.
        machines: Number of machines; each has as many processes as any other.
        started_by: What started the processes; "variables" is `RANK` and `WORLD_SIZE` alone,
            "array" an array of SLURM jobs.

    Raises:
        SettingError: If there is no such rank, or machines have different numbers of processes.
    """

    rank: int = 0
    world_size: int = 1
    machines: int = 1
    started_by: Literal["nobody", "arguments", "variables", "torchrun", "slurm", "array"] = "nobody"

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        if not 0 <= self.rank < self.world_size:
            raise SettingError(
                f"rank is {self.rank} and the world size {self.world_size}: ranks run from 0 to "
                "one less than the world size. Correct one of the two."
            )
        if self.machines < 1 or self.world_size % self.machines:
            raise SettingError(
                f"{counted(self.world_size, 'process')} on {counted(self.machines, 'machine')}: "
                "every machine must have the same number. Start as many processes on each."
            )

    @property
    def local_world_size(self) -> int:
        """Number of processes on each machine."""
        return self.world_size // self.machines

    def portion(self, shards: Sequence[str]) -> tuple[str, ...]:
        """Return the shards for this process: every `world_size`-th, so that all end together.

        The portions of one world size have no shard in common and leave none out.
        """
        return tuple(shards[self.rank :: self.world_size])

    @classmethod
    def from_environment(
        cls,
        rank: int | None = None,
        world_size: int | None = None,
        *,
        array: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> "Ranks":
        """Find out who this process is.

        Arguments go first, then the variables of torchrun, then those of a SLURM step. Where
        nobody says anything, the process is alone.

        Args:
            rank: Number of this process, if it is told.
            world_size: Number of all processes, if it is told.
            array: Whether the jobs of a SLURM array work together, too.
            environment: Environment variables.

        Raises:
            CcropError: If one of the two is missing, a variable is no integer, or the numbers
                contradict each other.
        """
        told = {"`rank`": rank, "`world_size`": world_size}
        if any(number is not None for number in told.values()):
            return cls(*_both(told), started_by="arguments")
        torchrun = {name: _number(environment, name) for name in _TORCHRUN}
        if torchrun["RANK"] is not None or torchrun["WORLD_SIZE"] is not None:
            return _torchrun(torchrun)
        step, jobs = _step(environment), _array(environment) if array else cls()
        if jobs.started_by == "nobody":
            return step
        number = jobs.rank * step.world_size + step.rank
        return cls(number, jobs.world_size * step.world_size, started_by="array")


ALONE = Ranks()


def own_gpu(gpus: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return which of the GPUs that this process sees is its own.

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


def _both(numbers: Mapping[str, int | None]) -> tuple[int, int]:
    (first, rank), (second, world_size) = numbers.items()
    if rank is None or world_size is None:
        there, missing = (second, first) if rank is None else (first, second)
        raise CcropError(f"{there} is given without {missing}: give both, or neither.")
    return rank, world_size


def _torchrun(numbers: Mapping[str, int | None]) -> Ranks:
    rank, world_size = _both({name: numbers[name] for name in _TORCHRUN[:2]})
    local = numbers["LOCAL_WORLD_SIZE"]
    if local is None:
        return Ranks(rank, world_size, started_by="variables")
    if local < 1 or world_size % local:
        raise CcropError(
            f"{counted(world_size, 'process')} of which this machine has {local}: every machine "
            "must have the same number. Start torchrun with the same --nproc-per-node everywhere."
        )
    return Ranks(rank, world_size, world_size // local, "torchrun")


def _step(environment: Mapping[str, str]) -> Ranks:
    rank, tasks, machines = (_number(environment, name) for name in _STEP)
    if tasks is None or tasks == 1:
        return ALONE
    rank, tasks = _both({_STEP[0]: rank, _STEP[1]: tasks})
    return Ranks(rank, tasks, machines or 1, "slurm")


def _array(environment: Mapping[str, str]) -> Ranks:
    numbers = [_number(environment, name) for name in _ARRAY]
    if numbers[0] is None:
        return ALONE
    index, first, last, count = (0 if number is None else number for number in numbers)
    # An array may be 0-9, 1-10 or 0-18:2.
    step, rest = divmod(last - first, count - 1) if count > 1 else (1, 0)
    rank, odd = divmod(index - first, step) if step > 0 else (-1, 0)
    if rest or odd or not 0 <= rank < count:
        raise CcropError(
            f"the place of task {index} in a SLURM array of {count} tasks from {first} to {last} "
            "is not clear. Use an array without gaps, such as --array=0-9, or give `rank` and "
            "`world_size`."
        )
    return Ranks(rank, count, started_by="array")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise CcropError(
            f"the environment variable {name} is {text!r}, no integer. Correct or unset it."
        ) from None
