"""Whether the pretrained weights of a network are on this machine, or can be fetched."""

import os
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ccrop_pipeline.errors import cause

_PATIENCE = 3.0  # seconds for an answer


@dataclass(frozen=True)
class Availability:
    """Where the pretrained weights of a network are.

    Attributes:
        model: `torchvision:NAME` or `timm:NAME`.
        cached: Whether the library has them on this machine.
        megabytes: Size of the download (1e6 bytes), None where it is not known.
        problem: Why they cannot be had; None where they can.
    """

    model: str
    cached: bool = False
    megabytes: float | None = None
    problem: str | None = None


def availability(model: str) -> Availability:
    """Return where the pretrained weights of a network are; one that is not cached is asked for.

    Args:
        model: `torchvision:NAME` or `timm:NAME`.
    """
    library, _, name = model.partition(":")
    if find_spec(library) is None:
        return Availability(model, problem=f"{library} is not installed: pip install {library}")
    cached, url = _of_torchvision(name) if library == "torchvision" else _of_timm(name)
    if cached:
        return Availability(model, cached=True)
    return _asked(model, url)


def _of_torchvision(name: str) -> tuple[bool, str]:
    import torch
    from torchvision import models

    url: str = models.get_model_weights(name).DEFAULT.url
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name).is_file(), url


def _of_timm(name: str) -> tuple[bool, str]:
    import timm
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    repo, file = timm.get_pretrained_cfg(name).hf_hub_id, "model.safetensors"
    return isinstance(try_to_load_from_cache(repo, file), str), hf_hub_url(repo, file)


def _asked(model: str, url: str) -> Availability:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") and model.startswith("timm:"):
        return Availability(model, problem="HF_HUB_OFFLINE is set, and they are not in the cache")
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_PATIENCE) as answer:
            size = answer.headers.get("Content-Length")
    except HTTPError as error:
        return Availability(model, problem=f"{url} answers {error.code}")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = cause(reason) if isinstance(reason, BaseException) else str(reason)
        return Availability(model, problem=f"{urlsplit(url).hostname} cannot be reached ({why})")
    return Availability(model, megabytes=int(size) / 1e6 if size else None)
