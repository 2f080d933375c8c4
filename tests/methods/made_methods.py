"""Methods small enough for tests, and the views they see."""

import torch

from ccrop_pipeline.methods import METHODS, build_method
from ccrop_pipeline.recipes import settings_type

SMALL = {
    "simclr": {"projection_dim": 16, "temperature": 0.5},
    "mocov1": {"projection_dim": 16, "queue_size": 24, "bn_groups": 3},
    "mocov2": {"projection_dim": 16, "queue_size": 24, "bn_groups": 3},
    "mocov3": {"hidden_dim": 32, "projection_dim": 16},
    "byol": {"hidden_dim": 32, "projection_dim": 16},
    "simsiam": {"hidden_dim": 32, "projection_dim": 32, "prediction_hidden_dim": 8},
    "dino": {"hidden_dim": 32, "bottleneck_dim": 8, "projection_dim": 24},
    "barlowtwins": {"hidden_dim": 32, "projection_dim": 16},
    "vicreg": {"hidden_dim": 32, "projection_dim": 16},
    "lejepa": {"hidden_dim": 32, "projection_dim": 16, "slices": 64},
}
WITH_MOMENTUM = ("mocov1", "mocov2", "mocov3", "byol", "dino")
assert SMALL.keys() == METHODS.keys()


def made(name, seed=0, **settings):
    torch.manual_seed(seed)
    return build_method(settings_type(name)(**{**SMALL[name], **settings}), "small")


def made_views(name, count=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator)

    def view(size):
        noise = torch.randn(count, 3, size, size, generator=generator)
        return images[:, :, :size, :size] + 2 * noise

    return [view(32), view(32), *([view(16)] * 2 if name in ("dino", "lejepa") else [])]


def train(model, name, steps=5, lr=0.001):
    """Losses of SGD on one fixed batch, in the order of calls that the driver keeps to."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kind = weights[0].dtype
    views, losses = [view.to(kind) for view in made_views(name)], []
    optimizer = torch.optim.SGD(weights, lr=lr)
    for step in range(steps):
        torch.manual_seed(step)  # as the driver does: permutations of MoCo
        model.before_step(epoch=step // 2, progress=step / steps)
        output = model(views)
        optimizer.zero_grad()
        output.loss.backward()
        model.after_backward(epoch=step // 2)
        optimizer.step()
        losses.append(output.loss.item())
    return losses
