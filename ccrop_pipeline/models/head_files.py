"""Files of linear heads: FOUND's, those of `ccrop boxes fit-linear`, and any like them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import output_file
from ccrop_pipeline.errors import ModelError, SettingError, shown
from ccrop_pipeline.localize import CellSource, Encoder, LinearHead
from ccrop_pipeline.models.weight_files import DIGEST, read_weights


def read_head(path: str | Path, encoder: Encoder) -> LinearHead:
    """Read a linear head.

    The weights are those of a 1x1 convolution or of a linear layer to one output, alone in the
    file or in one mapping inside it, such as the `decoder` of FOUND (valeoai/FOUND). In ours it is
    named by what it takes. Any other is for the keys of a transformer, as FOUND's, or where no
    keys can be read for the features of the layer.

    Args:
        path: A file of `torch.save` or of safetensors.
        encoder: What the head is for.

    Raises:
        ModelError: If the file holds anything else.
    """
    path = local_path(path)
    numbers = list(_numbers(read_weights(path, unsafe=None)))
    places = {name.rpartition(".")[0]: name for name, _ in numbers}
    named = {name.rpartition(".")[2]: value for name, value in numbers}
    is_head = len(numbers) == 2 and len(places) == 1 and named.keys() == {"weight", "bias"}
    if not is_head or not _fit(named["weight"], named["bias"]):
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in numbers) or "no weights"
        raise ModelError(
            f"{path} is no linear head: it holds {shown(found)}. Expected are `weight` (1, C), or "
            "(1, C, 1, 1), and `bias` (1,), finite floating-point numbers, and nothing else. The "
            "weight may not be 0 throughout."
        )
    (declared,) = places
    on: CellSource = "keys" if encoder.has_attention else "layer"
    on = cast(CellSource, declared) if declared in get_args(CellSource) else on
    return LinearHead(named["weight"].float().reshape(-1), float(named["bias"]), on)


def _numbers(content: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _numbers(value, f"{path}.{name}" if path else str(name))


def _fit(weight: Tensor, bias: Tensor) -> bool:
    for tensor in (weight, bias):
        # Sparse and quantized ones have no arithmetic, and complex ones another.
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            return False
        if not tensor.float().isfinite().all():
            return False
    flat = weight.ndim in (2, 4) and weight.numel() == weight.shape[1]
    return flat and bias.numel() == 1 and bool(weight.float().any())


def check_head_target(path: str | Path) -> None:
    """Refuse a file that `save_head` could not write, before anything slow begins.

    Raises:
        SettingError: If its name does not end in `.safetensors`.
    """
    path = local_path(path)
    if path.suffix != ".safetensors":
        raise SettingError(f"{path} is to be a file of safetensors; let its name end in it.")


def save_head(head: LinearHead, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a head to a safetensors file; the same head gives the same bytes.

    Raises:
        CcropError: If `check_head_target` refuses the file, or it is there with other content and
            is not to be replaced.
    """
    from safetensors.torch import save

    path = local_path(path)
    check_head_target(path)
    with output_file(path, overwrite=overwrite) as aside:
        aside.write_bytes(save(head.state, {DIGEST: head.sha256}))
