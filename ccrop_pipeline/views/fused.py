"""All changes of a view in one pass through the caches of a CPU, compiled by Numba.

It does what `augment` does with torch, view by view. torch writes each of some forty
intermediate results to memory, which takes most of its time there.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_RED, _GREEN, _BLUE = (np.float32(part) for part in (0.2989, 0.587, 0.114))  # see `photometric`
# Given, so that it is compiled as it is imported, before there are loader processes.
_SIGNATURE = (
    "void(uint8[:,:,:,:], int64[::1], int64[:,::1], float32[:,::1], boolean[:,::1], "
    "float32[::1], int64[::1], float64, float32[:,::1], float32[:,:,:,::1])"
)
_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(**_OPTIONS)
def _load(crop, flipped, image):
    side, level = image.shape[1], np.float32(1 / 255)
    for channel in range(3):
        for y in range(side):
            pixels, line = crop[channel, y], image[channel, y]
            if flipped:
                for x in range(side):
                    line[x] = pixels[side - 1 - x] * level
            else:
                for x in range(side):
                    line[x] = pixels[x] * level


@njit(**_OPTIONS)
def _blend(image, with_value, factor):
    offset = (_ONE - factor) * with_value
    for channel in range(3):
        plane = image[channel]
        for x in range(len(plane)):
            plane[x] = min(max(plane[x] * factor + offset, _ZERO), _ONE)


@njit(fastmath={"reassoc"}, **_OPTIONS)  # sums in any order
def _mean_luma(image):
    count = np.float32(image.shape[1])
    red = green = blue = _ZERO
    for x in range(image.shape[1]):
        red += image[0, x]
        green += image[1, x]
        blue += image[2, x]
    return (red * _RED + green * _GREEN + blue * _BLUE) / count


@njit(**_OPTIONS)
def _saturate(image, factor):
    red, green, blue = image[0], image[1], image[2]
    for x in range(len(red)):
        luma = (red[x] * _RED + green[x] * _GREEN + blue[x] * _BLUE) * (_ONE - factor)
        red[x] = min(max(red[x] * factor + luma, _ZERO), _ONE)
        green[x] = min(max(green[x] * factor + luma, _ZERO), _ONE)
        blue[x] = min(max(blue[x] * factor + luma, _ZERO), _ONE)


@njit(**_OPTIONS)
def _turn_hue(image, shift):
    # By at most a sixth of a turn at a time. Then the middle one of the three channels moves by
    # its share of the chroma, up or down by the order of the two others; what it moves beyond the
    # largest or the least, that one gives up: all three are clamped alike.
    times = max(1, math.ceil(abs(6 * shift)))
    share = np.float32(6 * shift / times)
    red, green, blue = image[0], image[1], image[2]
    for _ in range(times):
        for x in range(len(red)):
            r, g, b = red[x], green[x], blue[x]
            low, high = min(r, g), max(r, g)
            least, largest, middle = min(low, b), max(high, b), max(low, min(high, b))
            move = (largest - least) * share
            red[x] = _within(_TWO * r - middle - (move if g >= b else -move), least, largest)
            green[x] = _within(_TWO * g - middle - (move if b >= r else -move), least, largest)
            blue[x] = _within(_TWO * b - middle - (move if r >= g else -move), least, largest)


@njit(inline="always", **_OPTIONS)
def _within(value, least, largest):
    return min(max(value, least), largest)


@njit(**_OPTIONS)
def _jitter(image, steps, factors):
    for step in steps:
        if step == BRIGHTNESS:
            _blend(image, _ZERO, factors[step])
        elif step == CONTRAST:
            _blend(image, _mean_luma(image), factors[step])
        elif step == SATURATION:
            _saturate(image, factors[step])
        elif step == HUE:
            _turn_hue(image, factors[step])


@njit(**_OPTIONS)
def _grey(image):
    red, green, blue = image[0], image[1], image[2]
    for x in range(len(red)):
        luma = red[x] * _RED + green[x] * _GREEN + blue[x] * _BLUE
        red[x] = green[x] = blue[x] = luma


@njit(**_OPTIONS)
def _solarize(image, threshold):
    for channel in range(3):
        plane = image[channel]
        for x in range(len(plane)):
            plane[x] = _ONE - plane[x] if plane[x] >= threshold else plane[x]


@njit(**_OPTIONS)
def _blur(image, spare, sigma, radius):
    side = image.shape[1]
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights /= 2 * weights.sum() - weights[0]
    taps, line = weights.astype(np.float32), np.empty(side + 2 * radius, np.float32)
    for channel in range(3):
        plane = image[channel]
        for y in range(side):  # down, into `spare`
            _weigh(plane[y], taps[0], spare[y])
            for tap in range(1, radius + 1):
                above, below = abs(y - tap), side - 1 - abs(side - 1 - y - tap)
                _add_pair(plane[above], plane[below], taps[tap], spare[y])
        for y in range(side):  # across, back
            line[radius : radius + side] = spare[y]
            for tap in range(1, radius + 1):
                line[radius - tap] = spare[y, tap]
                line[radius + side - 1 + tap] = spare[y, side - 1 - tap]
            _weigh(spare[y], taps[0], plane[y])
            for tap in range(1, radius + 1):
                left, right = line[radius - tap :], line[radius + tap :]
                _add_pair(left, right, taps[tap], plane[y])


@njit(**_OPTIONS)
def _weigh(line, weight, into):
    for x in range(len(into)):
        into[x] = line[x] * weight


@njit(**_OPTIONS)
def _add_pair(first, second, weight, into):
    for x in range(len(into)):
        into[x] += (first[x] + second[x]) * weight


@njit(**_OPTIONS)
def _normalise(plane, mean, inverse, into):
    for y in range(len(plane)):
        for x in range(len(plane)):
            into[y, x] = (plane[y, x] - mean) * inverse


@njit(_SIGNATURE, **_OPTIONS)
def change_views(
    crops: NDArray[np.uint8],
    rows: NDArray[np.int64],
    steps: NDArray[np.int64],
    factors: NDArray[np.float32],
    chosen: NDArray[np.bool_],
    sigmas: NDArray[np.float32],
    radii: NDArray[np.int64],
    threshold: float,
    scale: NDArray[np.float32],
    views: NDArray[np.float32],
) -> None:
    """Change and normalise crops.

    Args:
        crops: uint8 (n, 3, S, S), in any layout.
        rows: int64 (n,), which crop each of the following is for.
        steps: int64 (n, 4), the jitter's steps in their order; others than the four do nothing.
        factors: float32 (n, 4), by step.
        chosen: bool (n, 3), whether to flip, turn grey and solarize.
        sigmas: float32 (n,), standard deviations of the blur in pixels.
        radii: int64 (n,), where its kernels end; 0 for no blur.
        threshold: Of solarization.
        scale: float32 (2, 3), mean and inverse of the standard deviation of each channel.
        views: float32 (n, 3, S, S), where the results go.
    """
    side = crops.shape[3]
    image, spare = np.empty((3, side, side), np.float32), np.empty((side, side), np.float32)
    flat = image.reshape(3, side * side)
    for at in range(len(rows)):
        row = rows[at]
        _load(crops[row], chosen[at, 0], image)
        _jitter(flat, steps[at], factors[at])
        if chosen[at, 1]:
            _grey(flat)
        if radii[at]:
            _blur(image, spare, sigmas[at], radii[at])
        if chosen[at, 2]:
            _solarize(flat, np.float32(threshold))
        for channel in range(3):
            _normalise(image[channel], scale[0, channel], scale[1, channel], views[row, channel])
