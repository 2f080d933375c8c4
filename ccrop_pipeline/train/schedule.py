"""Learning rate as a pure function of the step."""

import math


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
