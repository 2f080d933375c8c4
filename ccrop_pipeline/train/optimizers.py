"""Optimizers, and what changes in them from step to step."""

from typing import Any

import torch
from torch import nn

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import Method
from ccrop_pipeline.train.schedule import scheduled_decay, scheduled_rate
from ccrop_pipeline.train.settings import OptimizerSettings


def build_optimizer(method: Method, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Builds the optimizer of all that a method trains.

    Parameters are grouped by what they have in common: a group has "fixed_rate" (its learning
    rate stays at the peak) and "decays" (weight decay covers it). LARS leaves a group that does
    not decay without its trust ratio, too, as SimCLR and BYOL do with norms and biases.

    Args:
        method: Already on its device; parameters without gradient are left out.
        settings: Kind of optimizer and its numbers.

    Raises:
        CcropError: LARS without weight decay, which would be plain SGD.
    """
    groups = _groups(method, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    if settings.weight_decay == 0 or settings.final_weight_decay == 0:
        raise CcropError(
            "optimizer.name is 'lars' and the weight decay is or becomes 0: parameters that do "
            "not decay get no trust ratio, so this would be plain SGD. Set "
            "optimizer.weight_decay above 0 (SimCLR has 1e-6), or optimizer.name to 'sgd'"
        )
    from lightly.utils.lars import LARS

    optimizer: torch.optim.Optimizer = LARS(groups, lr=settings.lr, momentum=settings.momentum)
    return optimizer


def set_rates(
    optimizer: torch.optim.Optimizer,
    settings: OptimizerSettings,
    step: int,
    steps: int,
    steps_per_epoch: int,
) -> float:
    """Sets learning rate and weight decay of every group for a step.

    Args:
        optimizer: From `build_optimizer`.
        settings: The same as there.
        step: Steps taken so far, in [0, steps).
        steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.

    Returns:
        The scheduled learning rate, which groups of fixed rate do not follow.
    """
    rate = scheduled_rate(settings, step, steps, steps_per_epoch)
    decay = scheduled_decay(settings, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = settings.lr if group["fixed_rate"] else rate
        group["weight_decay"] = decay if group["decays"] else 0.0
    return rate


def _groups(method: Method, settings: OptimizerSettings) -> list[dict[str, Any]]:
    fixed = {id(parameter) for parameter in method.fixed_rate_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            # Biases and the weights of norms have one dimension, and nothing else has.
            decays = settings.decay_norms_and_biases or parameter.ndim > 1
            groups.setdefault((id(parameter) in fixed, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "fixed_rate": fixed_rate,
            "decays": decays,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (fixed_rate, decays), parameters in groups.items()
    ]
