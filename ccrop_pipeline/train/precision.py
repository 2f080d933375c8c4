"""Whether a device has the numbers that a recipe asks for, or makes do without."""

import torch

# torch's names of the instruction sets for which oneDNN has kernels in bfloat16, for gradients
# too. With others, such as AVX2, each product is converted number by number.
_BF16_SETS = ("AVX512", "AMX", "SVE")


def emulates_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is slower than float32 there, for want of instructions.

    Args:
        device: A CPU or a GPU; of other kinds nothing is known, and the answer is no.
    """
    if device.type == "cpu":
        return not torch.backends.cpu.get_cpu_capability().startswith(_BF16_SETS)
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def slow_precision(precision: str, device: torch.device) -> str | None:
    """What to tell a person whose precision is slow on this device; None: nothing.

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
