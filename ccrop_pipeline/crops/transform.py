"""ContrastiveCrop as a torchvision v2 transform, for anyone's training loop."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops.windows import UNIFORMS_PER_WINDOW, CropParams, Rule, sample_windows
from ccrop_pipeline.errors import CcropError, SettingError

_ATTACHED: Final = "_ccrop_box"


class ContrastiveCrop(v2.Transform):  # type: ignore[misc]  # torchvision carries no types
    """Crop a random window that minds the sample's box, and resize it.

    It takes the place of torchvision's RandomResizedCrop, and its arguments in the same order.
    A sample is any structure that a v2 transform takes (one image, arguments, tuple, dict ...)
    with exactly one box in it. Either a PIL image carries it (`attach_box`), and then the crop
    carries none; or it is a `tv_tensors.BoundingBoxes` of one row, not rotated, in any format, on
    the canvas of the image, and comes out in the frame of the crop, clamped. Images may be PIL
    images, tensors (..., C, H, W) or tv_tensors. Randomness is torch's global generator.

    With the full box, `alpha=1` and `rule="overlap"` windows are distributed as those of
    RandomResizedCrop, but for panoramas: where none of ten candidates fits the image,
    RandomResizedCrop takes the central window, and this one of the same size anywhere. With scale
    (.2, 1) that are .8 % of the windows in an image of 2:1, 15 % at 3:1 and 49 % at 4:1; with
    (.08, 1) they are .2, 3.7 and 12 %.

    Args:
        size: Height and width of the crop in pixels, or one number for both.
        scale: Least and largest area of a window as a share of the image's, in (0, 1]. The paper
            has (.2, 1); RandomResizedCrop has (.08, 1).
        ratio: Least and largest width / height of a window.
        interpolation: As in torchvision's resize, which takes its name as well.
        antialias: As in torchvision's resize; it concerns tensors only.
        alpha: Of Beta(alpha, alpha), in [0.01, 100]: 1 is uniform, below 1 seeks the ends.
        rule: Where windows go: "paper", "official" or "overlap", see `crops.windows`.
        min_overlap: Share of the smaller of window and box that both have in common along each
            axis, in (0, 1]; of the rule "overlap".

    Raises:
        SettingError: If an argument is out of its range.
        CcropError: If the sample of a call has no box or several, or its box has no area
            inside the image or another canvas than the image. There is no silent full box.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: InterpolationMode | str | int = InterpolationMode.BILINEAR,
        antialias: bool | None = True,  # noqa: FBT001, FBT002 - as torchvision has it
        *,
        alpha: float = 0.6,
        rule: Rule = "paper",
        min_overlap: float = 0.5,
    ) -> None:
        super().__init__()
        sides = [size] if isinstance(size, int) else list(size)
        self.size = sides * 2 if len(sides) == 1 else sides
        if len(self.size) != 2 or min(self.size) < 1:
            raise SettingError(
                f"size is {size}; it must be one or two numbers of pixels, 1 or more."
            )
        self.scale, self.ratio = scale, ratio
        self.interpolation = interpolation
        self.antialias = antialias
        self.alpha, self.rule, self.min_overlap = alpha, rule, min_overlap
        self._params = CropParams(rule, alpha, scale, ratio, min_overlap)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window for one sample: top, left, height, width."""
        box = _only_box(flat_inputs)
        _check_canvas(box, flat_inputs)
        height, width = box.canvas_size
        windows = sample_windows(
            _corners(box) / (width, height, width, height),
            np.array([[width, height]]),
            torch.rand(1, UNIFORMS_PER_WINDOW, dtype=torch.float64, device="cpu").numpy(),
            self._params,
        )
        return dict(zip(("top", "left", "height", "width"), windows[0].tolist(), strict=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize one part of the sample."""
        return F.resized_crop(
            inpt,
            **params,
            size=self.size,
            interpolation=self.interpolation,
            antialias=self.antialias,
        )


def as_bounding_box(box: Sequence[float], width: int, height: int) -> tv_tensors.BoundingBoxes:
    """Turn a normalised box into what torchvision takes.

    Args:
        box: Normalised x_min, y_min, x_max, y_max.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        One box in pixels, XYXY, float64: divided by the size again it is the float32 it came from.
    """
    x_min, y_min, x_max, y_max = (float(number) for number in box)
    return tv_tensors.BoundingBoxes(
        [[x_min * width, y_min * height, x_max * width, y_max * height]],
        format="XYXY",
        canvas_size=(height, width),
        dtype=torch.float64,
        device="cpu",
    )


def attach_box(image: PIL.Image.Image, box: Sequence[float]) -> PIL.Image.Image:
    """Mark a PIL image with its box, for a `ContrastiveCrop` that is given nothing but the image.

    The mark is on this one object. Whatever makes a new image of it (a flip, a resize, `convert`,
    `copy`, pickling) leaves the mark behind, since the box need not fit the new one, and
    ContrastiveCrop refuses an image without a mark. So attach the box last before the crop.

    Args:
        image: In the image frame, EXIF orientation not applied; any mode.
        box: Normalised x_min, y_min, x_max, y_max.

    Returns:
        The image given, marked.

    Raises:
        CcropError: If the box is not ordered and within [0, 1].
    """
    x_min, y_min, x_max, y_max = (float(number) for number in box)
    if not (0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1):
        raise CcropError(
            "a box must be 0 <= x_min < x_max <= 1 and so for y, in shares of the image's size and "
            f"not in pixels: {(x_min, y_min, x_max, y_max)}."
        )
    setattr(image, _ATTACHED, _Attached((x_min, y_min, x_max, y_max), image.size))
    return image


class _Attached(NamedTuple):
    box: tuple[float, float, float, float]
    size: tuple[int, int]


def _attached_box(image: PIL.Image.Image) -> tv_tensors.BoundingBoxes | None:
    attached: _Attached | None = getattr(image, _ATTACHED, None)
    if attached is None:
        return None
    if attached.size != image.size:
        raise CcropError(
            f"the image was {attached.size} (width, height) when its box was attached and is "
            f"{image.size} now. Attach the box last before ContrastiveCrop."
        )
    return as_bounding_box(attached.box, *image.size)


def _only_box(flat_inputs: list[Any]) -> tv_tensors.BoundingBoxes:
    boxes = [item for item in flat_inputs if isinstance(item, tv_tensors.BoundingBoxes)]
    carried = (_attached_box(item) for item in flat_inputs if isinstance(item, PIL.Image.Image))
    boxes += [box for box in carried if box is not None]
    rows = sum(len(item) for item in boxes)
    if rows != 1 or len(boxes) != 1:
        raise CcropError(
            f"ContrastiveCrop needs exactly one box in a sample and found {rows} in {len(boxes)} "
            "places. Attach it to a PIL image last before the crop (`attach_box`: flips, resizes "
            "and convert leave it behind), or give a BoundingBoxes beside the image "
            "(`as_bounding_box`); (0, 0, 1, 1) is the whole image."
        )
    if boxes[0].shape[-1] != 4:
        raise CcropError(f"ContrastiveCrop takes no rotated boxes, and got {boxes[0].format}.")
    return boxes[0]


def _check_canvas(box: tv_tensors.BoundingBoxes, flat_inputs: list[Any]) -> None:
    for item in flat_inputs:
        # A plain tensor arrives here only if torchvision takes it for the image.
        image_like = isinstance(
            item, (PIL.Image.Image, tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask)
        )
        if not image_like and type(item) is not torch.Tensor:
            continue
        height, width = F.get_size(item)
        if (height, width) != tuple(box.canvas_size):
            raise CcropError(
                f"the image is {height} x {width} (height x width), the box's canvas_size "
                f"{tuple(box.canvas_size)}. Give the box the size of the image it comes with."
            )


def _corners(box: tv_tensors.BoundingBoxes) -> NDArray[np.float64]:
    """Return (1, 4) pixels x_min, y_min, x_max, y_max, within the canvas."""
    plain = box.as_subclass(torch.Tensor).to("cpu", torch.float64)
    if box.format != tv_tensors.BoundingBoxFormat.XYXY:
        plain = F.convert_bounding_box_format(
            plain, old_format=box.format, new_format=tv_tensors.BoundingBoxFormat.XYXY
        )
    height, width = box.canvas_size
    corners: NDArray[np.float64] = np.minimum(
        np.maximum(plain.detach().numpy(), 0), (width, height, width, height)
    )
    if not (corners[:, :2] < corners[:, 2:]).all():
        raise CcropError(f"box {plain.tolist()} (XYXY) has no area inside {height} x {width}.")
    return corners
