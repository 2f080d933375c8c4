"""From what stands on the command line to sources and devices."""

from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ccrop_pipeline.errors import CcropError

if TYPE_CHECKING:
    import torch

    from ccrop_pipeline.images import Source

Split = Literal["train", "test"]
CACHE = Path("~/.cache/ccrop")


def open_any(
    spec: str, split: Split = "train", root: Path | None = None, download: bool = True
) -> "Source":
    """Open a path or pattern, or else a torchvision data set of that name.

    Raises:
        CcropError: If it is neither, or cannot be opened.
    """
    from ccrop_pipeline.images import open_source, open_torchvision

    if _is_place(spec):
        return open_source(spec)
    try:
        return open_torchvision(spec, (root or CACHE).expanduser(), split, download)
    except CcropError as error:
        raise CcropError(f"there is no file or folder {spec!r}, and as a name: {error}") from None


def from_anywhere(spec: str) -> str:
    """Return what opens the same source from any working directory: local paths are made absolute.

    Addresses and names of data sets hold anywhere as they are. So do commands (`pipe:...`), as
    long as they name no relative path: what in them is a path, nobody can tell.
    """
    from ccrop_pipeline.images import expand_braces
    from ccrop_pipeline.images.remote import is_remote

    if not _is_place(spec) or is_remote(spec):
        return spec
    path = Path(spec).expanduser()
    if path.exists():
        return str(path.absolute())
    if Path(next(expand_braces(str(path)))).is_absolute():
        return str(path)
    # A pattern: what stands before it must not be taken for a part of it.
    return f"{escape(str(Path.cwd()))}/{spec}"


def _is_place(spec: str) -> bool:
    return any(mark in spec for mark in "/\\.*{?") or Path(spec).exists()


def open_device(name: str) -> "torch.device":
    """Return a torch device by name; "auto" is the GPU where there is one."""
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        from ccrop_pipeline.base.ranks import own_gpu

        return torch.device("cuda", own_gpu(torch.cuda.device_count()))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CcropError(f"device {name!r} cannot be used here: {reason}") from error
    return device
