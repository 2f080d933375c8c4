"""Reading one layer of a network while it runs."""

from torch import Tensor, nn


class Tap(nn.Module):
    """Runs a module and returns what one of its layers gave, not what it gave itself.

    Both in one module, so that ``torch.compile`` sees the layer's output as the result and drops
    what comes after it.

    Args:
        module: The network.
        layer: Dotted path of the layer, empty for the module's own output.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module = module
        self.layer = layer
        self.kept: dict[str, object] = {}

    def forward(self, images: Tensor) -> object:
        """What the layer gave for `images`, tensors as copies; None if it took no part."""
        self.kept = {}
        self.module(images)
        # By name, which puts the name among the guards of compiled code: taps whose guards agree
        # may share it, and two layers of one network must not.
        return self.kept.get(self.layer)

    def keep(self, _module: nn.Module, _args: object, output: object) -> None:
        """Forward hook of the layer."""
        # Copied, since the next layer may work in place (ReLUs and residual sums often do).
        self.kept[self.layer] = output.clone() if isinstance(output, Tensor) else output
