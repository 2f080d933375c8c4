"""Whether the pretrained weights of a network are on this machine, or can be fetched."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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


def availability(models: Sequence[str]) -> list[Availability]:
    """Return where the pretrained weights of networks are; those not cached are asked for, at once.

    Args:
        models: Each `torchvision:NAME` or `timm:NAME`.
    """
    # One after the other: two threads that import one library find it half made.
    found = [_located(model) for model in models]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda each: _asked(*each) if each[1] else each[0], found))


def _located(model: str) -> tuple[Availability, str | None]:
    """Return what is known of weights without a network, and where to ask for them if need be."""
    library, _, name = model.partition(":")
    if find_spec(library) is None:
        problem = f"{library} is not installed: pip install {library}"
        return Availability(model, problem=problem), None
    cached, url = _of_torchvision(name) if library == "torchvision" else _of_timm(name)
    return Availability(model, cached=cached), None if cached else url


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


def _asked(weights: Availability, url: str) -> Availability:
    is_offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    if is_offline and weights.model.startswith("timm:"):
        return replace(weights, problem="HF_HUB_OFFLINE is set, and they are not in the cache")
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_PATIENCE) as answer:
            size = answer.headers.get("Content-Length")
    except HTTPError as error:
        return replace(weights, problem=f"{url} answers {error.code}")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = cause(reason) if isinstance(reason, BaseException) else str(reason)
        return replace(weights, problem=f"{urlsplit(url).hostname} cannot be reached ({why})")
    return replace(weights, megabytes=int(size) / 1e6 if size else None)
