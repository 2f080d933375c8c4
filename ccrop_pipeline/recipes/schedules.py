"""Learning rate and weight decay as pure functions of the step."""

import math

from ccrop_pipeline.recipes.settings import OptimizerSettings


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear growth to `peak`, then half a cosine to 0 (Loshchilov and Hutter, ICLR 2017).

    Args:
        step: Steps taken so far, in [0, steps).
        steps: Steps of the whole run.
        warmup_steps: Steps of linear growth.
        peak: Highest learning rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def scheduled_rate(
    settings: OptimizerSettings, step: int, steps: int, steps_per_epoch: int
) -> float:
    """The learning rate of a step by any of the schedules; all begin with the same warm-up.

    Args:
        settings: Schedule and its numbers.
        step: Steps taken so far, in [0, steps).
        steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch, which is what settings count in.
    """
    warmup_steps = settings.lr_warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return learning_rate(step, steps, warmup_steps, settings.lr)
    if settings.schedule == "cosine":
        falling = learning_rate(step, steps, warmup_steps, settings.lr)
        return falling + settings.final_lr_share * (settings.lr - falling)
    passed = sum(step >= epoch * steps_per_epoch for epoch in settings.milestones)
    return settings.lr * settings.factor**passed


def scheduled_decay(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The weight decay of a step: constant, or half a cosine to `final_weight_decay`.

    The latter is what DINO does (section 3.2 of arXiv:2104.14294, from 0.04 to 0.4).

    Args:
        settings: First and last weight decay.
        step: Steps taken so far, in [0, steps).
        steps: Steps of the whole run.
    """
    first, last = settings.weight_decay, settings.final_weight_decay
    if last < 0:
        return first
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / steps))
