"""Optimizers of a run: groups of parameters, their rates, and what is done to gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ccrop_pipeline.errors import shown
from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods import Method
from ccrop_pipeline.recipes import OptimizerSettings, Recipe


def build_optimizer(method: Method, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Build the optimizer of all that a method trains.

    Parameters are grouped by what they have in common: a group has "fixed_rate" (its learning
    rate stays at the peak), "decays" (weight decay covers it) and "share" (of the learning rate,
    by `layer_decay` and `norms_and_biases_share`). LARS leaves a group that does not
    decay without its trust ratio, too, as SimCLR and BYOL do with norms and biases.

    Args:
        method: Already on its device; parameters without gradient are left out.
        settings: Kind of optimizer and its numbers.
    """
    groups = _groups(method, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    from lightly.utils.lars import LARS

    optimizer: torch.optim.Optimizer = LARS(groups, lr=settings.lr, momentum=settings.momentum)
    return optimizer


def set_rates(
    optimizer: torch.optim.Optimizer,
    settings: OptimizerSettings,
    *,
    step: int,
    steps: int,
    steps_per_epoch: int,
) -> float:
    """Set learning rate and weight decay of every group for a step.

    Args:
        optimizer: From `build_optimizer`.
        settings: The same as there.
        step: Steps taken so far, in [0, steps).
        steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.

    Returns:
        The scheduled learning rate, which groups of fixed rate do not follow.
    """
    rate = settings.rate(step, steps, steps_per_epoch)
    decay = settings.decay(step, steps)
    for group in optimizer.param_groups:
        group["lr"] = (settings.lr if group["fixed_rate"] else rate) * group["share"]
        group["weight_decay"] = decay if group["decays"] else 0.0
    return rate


def _groups(method: Method, settings: OptimizerSettings) -> list[dict[str, Any]]:
    fixed = {id(parameter) for parameter in method.fixed_rate_parameters()}
    behind = _blocks_behind(method.backbone) if settings.layer_decay < 1 else {}
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            # Biases and the weights of norms have one dimension, and nothing else has.
            is_matrix = parameter.ndim > 1
            decays = settings.decay_norms_and_biases or is_matrix
            share = settings.layer_decay ** behind.get(id(parameter), 0)
            share *= 1.0 if is_matrix else settings.norms_and_biases_share
            groups.setdefault((id(parameter) in fixed, decays, share), []).append(parameter)
    return [
        {
            "params": parameters,
            "fixed_rate": fixed_rate,
            "decays": decays,
            "share": share,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (fixed_rate, decays, share), parameters in groups.items()
    ]


def optimizer_note(backbone: Backbone, recipe: Recipe) -> str | None:
    """Return a warning where a transformer is to be trained by an optimizer that is not for it.

    So are ConvNeXts (arXiv:2201.03545, section 2.1). The numbers are those of MoCo v3
    (arXiv:2104.02057, section 4), also for SimCLR and BYOL.
    """
    norms = [part for part in backbone.modules() if isinstance(part, nn.LayerNorm | _BatchNorm)]
    of_transformers = norms and not any(isinstance(norm, _BatchNorm) for norm in norms)
    if not of_transformers or recipe.optimizer.name == "adamw":
        return None
    rate = 1.5e-4 * recipe.batch_size / 256
    return (
        f"{backbone.name} has the layer norm of transformers, and the recipe trains it by "
        f"{recipe.optimizer.name}, which is for batch norm. Set optimizer.name=adamw, "
        f"optimizer.lr={rate:.2g} and optimizer.weight_decay=0.1, or take a recipe for "
        "transformers (dino-vit, mocov3-vit, lejepa-vit)."
    )


def _blocks_behind(backbone: Backbone) -> dict[int, int]:
    """Return how many blocks are behind each parameter, its own counted in, by its `id`."""
    depths = backbone.depths()
    count = 1 + max(depths.values())
    return {id(value): count - depths[name] for name, value in backbone.named_parameters()}


def clip_each(parameters: Iterable[nn.Parameter], longest: float) -> None:
    """Scale down each gradient that is longer than that, as `clip_gradients` of DINO's utils.py."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_((longest / (parameter.grad.norm() + 1e-6)).clamp(max=1))


# What each optimizer keeps of a parameter that it has changed.
_KEPT = {
    "sgd": {"momentum_buffer"},
    "lars": {"momentum_buffer"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
}


def expect_kept(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Check that an optimizer whose state was loaded holds what its kind keeps.

    Raises:
        ValueError: If something is missing, or has another shape.
    """
    for parameter, kept in optimizer.state.items():
        if not isinstance(parameter, Tensor) or kept.keys() != _KEPT[name]:
            raise ValueError(f"its optimizer has not kept what {name} keeps")
        for what, value in kept.items():
            shape = () if what == "step" else parameter.shape
            if value is not None and value.shape != shape:
                raise ValueError(f"its {what} has the shape {shown(tuple(value.shape))}")
