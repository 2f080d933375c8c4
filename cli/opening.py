"""From what stands on the command line to sources and devices."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ccrop_pipeline.errors import CcropError

if TYPE_CHECKING:
    import torch

    from ccrop_pipeline.sources import Source

Split = Literal["train", "test"]
CACHE = Path("~/.cache/ccrop")


def open_any(
    spec: str, split: Split = "train", root: Path | None = None, download: bool = True
) -> "Source":
    """Opens a path or pattern, or else a torchvision data set of that name.

    Raises:
        CcropError: When it is neither, or cannot be opened.
    """
    from ccrop_pipeline.sources import open_source, open_torchvision

    looks_like_a_path = any(mark in spec for mark in "/\\.*{?")
    if looks_like_a_path or Path(spec).exists():
        return open_source(spec)
    try:
        return open_torchvision(spec, (root or CACHE).expanduser(), split, download)
    except CcropError as error:
        raise CcropError(f"there is no file or folder {spec!r}, and as a name: {error}") from None


def open_device(name: str) -> "torch.device":
    """A torch device by name; "auto" is the GPU where there is one."""
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        from ccrop_pipeline.compute.share import own_gpu

        return torch.device("cuda", own_gpu(torch.cuda.device_count()))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CcropError(f"device {name!r} cannot be used here: {reason}") from error
    return device
