"""Whether the pretrained weights of a network are on this machine, or can be fetched."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ccrop_pipeline.errors import cause

_PATIENCE = 3.0  # seconds for all answers


@dataclass(frozen=True)
class Availability:
    """Where the pretrained weights of a network are.

    Attributes:
        model: `torchvision:NAME` or `timm:NAME`.
        url: The file of them that the library fetches; None without the library.
        cached: Whether the library has them on this machine.
        megabytes: Size of the download (1e6 bytes), None where it is not known.
        problem: Why they cannot be had; None where they can.
    """

    model: str
    url: str | None = None
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
    answers: dict[str, Availability] = {}
    # Not of a pool, which waits for all: a name that no server resolves can take a minute.
    threads = [
        Thread(target=_ask, args=(each, answers), daemon=True)
        for each in found
        if not each.cached and not each.problem
    ]
    until = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [
        answers.get(each.model) or (each if each.cached or each.problem else _too_late(each))
        for each in found
    ]


def _located(model: str) -> Availability:
    """Return what is known of weights without a network."""
    library, _, name = model.partition(":")
    if find_spec(library) is None:
        return Availability(model, problem=f"{library} is not installed: pip install {library}")
    cached, url = _of_torchvision(name) if library == "torchvision" else _of_timm(name)
    return Availability(model, url, cached)


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


def _ask(weights: Availability, answers: dict[str, Availability]) -> None:
    answers[weights.model] = _asked(weights, str(weights.url))


def _too_late(weights: Availability) -> Availability:
    host = urlsplit(str(weights.url)).hostname
    return replace(weights, problem=f"{host} does not answer within {_PATIENCE:g} s")


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
