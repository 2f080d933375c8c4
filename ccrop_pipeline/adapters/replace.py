"""Other people's transforms, with ContrastiveCrop in the place of RandomResizedCrop."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from types import ModuleType
from typing import Any, Final

from torchvision.transforms import v2

from ccrop_pipeline.crops import ContrastiveCrop
from ccrop_pipeline.crops.windows import Rule
from ccrop_pipeline.errors import CcropError

# Package and name of what is replaced; torchvision has one crop for v1 and one for v2.
_CROPS: Final = {
    ("torchvision", "RandomResizedCrop"),
    ("timm", "RandomResizedCropAndInterpolation"),
}


def replace_crop(
    transform: Any, *, alpha: float = 0.6, rule: Rule = "paper", min_overlap: float = 0.5
) -> Any:
    """Copy a transform, with ContrastiveCrop for every RandomResizedCrop in it.

    It looks into whatever holds other transforms as attributes or in lists: Compose and
    RandomApply of torchvision, v1 or v2, the transforms of timm, the multi-view and multi-crop
    transforms of lightly.

    Args:
        transform: A transform, or a list of them; it is not changed.
        alpha: As in `ContrastiveCrop`, which has size, scale, ratio, interpolation and antialias
            of each crop that it replaces.
        rule: As there.
        min_overlap: As there.

    Returns:
        The copy.

    Raises:
        CcropError: If there is no RandomResizedCrop, or one of another kind, which may do more
            than crop and resize.
    """
    make = partial(ContrastiveCrop, alpha=alpha, rule=rule, min_overlap=min_overlap)
    crops = {id(crop): _contrastive(crop, make) for crop in _find_crops(transform, set())}
    if not crops:
        raise CcropError(
            f"there is no RandomResizedCrop in {type(transform).__name__} that could be replaced. "
            "Put ContrastiveCrop where the crop belongs."
        )
    # A copy takes what `memo` holds for an object in the place of a copy of that object.
    return deepcopy(transform, memo=dict(crops))


def _find_crops(node: Any, seen: set[int]) -> Iterator[Any]:
    if id(node) in seen or isinstance(node, type | ModuleType):
        return
    seen.add(id(node))
    if (type(node).__module__.partition(".")[0], type(node).__name__) in _CROPS:
        yield node
        return
    if any("RandomResizedCrop" in kind.__name__ for kind in type(node).__mro__):
        raise CcropError(
            f"{type(node).__module__}.{type(node).__name__} may do more than crop and resize, and "
            "ContrastiveCrop cannot stand in for it. Put ContrastiveCrop there by hand."
        )
    for child in _children(node):
        yield from _find_crops(child, seen)


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, list | tuple):
        return list(node)
    return list(getattr(node, "__dict__", {}).values())


def _contrastive(crop: Any, make: Callable[..., ContrastiveCrop]) -> v2.Transform:
    modes = crop.interpolation if isinstance(crop.interpolation, tuple) else [crop.interpolation]
    antialias = getattr(crop, "antialias", True)
    made = [make(list(crop.size), crop.scale, crop.ratio, mode, antialias) for mode in modes]
    # timm's interpolation="random": one of several for each image.
    return made[0] if len(made) == 1 else v2.RandomChoice(made)
