"""The processes of a run: one alone, or several that torchrun or SLURM has started."""

import logging
from collections.abc import Callable
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from ccrop_pipeline.base import Ranks
from ccrop_pipeline.errors import CcropError, counted

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

# Batch norm is synchronised or kept apart on purpose, and queues are equal everywhere, so that
# buffers need not be copied from the first process at every step. Newer torch has another word.
_BUFFERS_AT_EVERY_STEP: Final = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

_PRECISIONS: Final = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}


class Processes:
    """What the processes of a run do together; one alone needs no distributed machinery.

    Args:
        device: Kind of device; of several GPUs each process takes its own.
        precision: "fp32", "fp64", or "bf16" for autocast in the forward pass.

    Attributes:
        ranks: Who this process is, by torchrun or a SLURM step.
        fabric: Lightning Fabric, which knows devices, precision and DDP.

    Raises:
        CcropError: If the variables of torchrun or SLURM contradict each other, or there are fewer
            GPUs than processes.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.ranks = Ranks.from_environment()
        self.fabric = _fabric(device, precision, self.ranks)
        self.fabric.launch()

    @property
    def count(self) -> int:
        """Number of all processes."""
        return self.ranks.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.ranks.rank == 0

    def once(self, action: Callable[[], T]) -> T:
        """Let the first process do something, the others wait; all have the result.

        Raises:
            CcropError: If in every process, when it is raised in the first.
        """
        if self.count == 1:
            return action()
        outcome: tuple[T | None, str | None] = (None, None)
        if self.first:
            try:
                outcome = (action(), None)
            except (CcropError, OSError) as error:
                outcome = (None, str(error))
        result, failure = self.fabric.broadcast(outcome)
        if failure is not None:
            raise CcropError(failure)
        return cast(T, result)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.fabric.barrier()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean over processes of a tensor."""
        return self._reduced(value, "mean")

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over processes of a tensor."""
        return self._reduced(value, "sum")

    def together(self, values: dict[int, str]) -> dict[int, str]:
        """Return the values of all processes."""
        if self.count == 1:
            return values
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, values)
        return {own: value for part in parts for own, value in part.items()}

    def _reduced(self, value: torch.Tensor, how: str) -> torch.Tensor:
        if self.count == 1:
            return value
        return cast(torch.Tensor, self.fabric.all_reduce(value, reduce_op=how))


def _fabric(device: torch.device, precision: str, ranks: Ranks) -> "Fabric":
    from lightning_fabric import Fabric  # two seconds, which `ccrop boxes` need not wait
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    # What it tells of itself at every start is of no use to people who train.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

    settings: dict[str, Any] = {
        "accelerator": "cuda" if device.type == "cuda" else device.type,
        "precision": _PRECISIONS[precision],
    }
    if ranks.started_by == "variables" and ranks.world_size > 1:
        raise CcropError(
            f"RANK is {ranks.rank} and WORLD_SIZE {ranks.world_size}, but LOCAL_WORLD_SIZE is not "
            "set: start several processes of training with torchrun or srun, or unset the two."
        )
    if ranks.started_by not in ("torchrun", "slurm"):
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(devices=devices, **settings)
    _expect_gpus(device, ranks.local_world_size)
    environment = (
        TorchElasticEnvironment() if ranks.started_by == "torchrun" else SLURMEnvironment()
    )
    # One process may have to wait for the last shard of another in a refresh.
    patience = timedelta(hours=2)
    buffers: dict[str, Any] = {_BUFFERS_AT_EVERY_STEP: False}
    strategy = DDPStrategy(cluster_environment=environment, timeout=patience, **buffers)
    return Fabric(
        devices=ranks.local_world_size,
        num_nodes=ranks.machines,
        strategy=strategy,
        **settings,
    )


def _expect_gpus(device: torch.device, processes: int) -> None:
    seen = torch.cuda.device_count()
    if device.type == "cuda" and seen < processes:
        raise CcropError(
            f"this machine has {counted(processes, 'process')}, but this one sees "
            f"{counted(seen, 'GPU')}. Start one "
            "process for each GPU, and let each see all of them (srun --gpu-bind=none)."
        )


def device_name(device: torch.device) -> str:
    """Return what people call a device: the name of the GPU, else its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


# torch's names of the instruction sets for which oneDNN has kernels in bfloat16, for gradients
# too. With others, such as AVX2, each product is converted number by number.
_BF16_SETS = ("AVX512", "AMX", "SVE")


def emulates_bf16(device: torch.device) -> bool:
    """Tell whether bfloat16 is slower than float32 there, for want of instructions.

    Args:
        device: A CPU or a GPU; of other kinds nothing is known, and the answer is no.
    """
    if device.type == "cpu":
        return not torch.backends.cpu.get_cpu_capability().startswith(_BF16_SETS)
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Return what to tell a person whose precision is slow on this device; None: nothing.

    Args:
        precision: As in `Recipe.precision`.
        device: Where the method trains.
    """
    if precision != "bf16" or not emulates_bf16(device):
        return None
    return (
        f"precision is 'bf16', for which this {device.type} has no instructions: steps take "
        "several times as long as in float32. Set precision=fp32, or train on another device"
    )
