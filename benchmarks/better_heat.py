"""Whether heat can be had that boxes are better drawn from.

    python -m benchmarks.better_heat SOURCE --model SPEC

Heatmaps of images with true boxes, and of two random windows of each, are changed in one way at a
time; thresholds are then chosen anew. `best` is the fixed threshold that finds the most (labels
are looked at, of every variant alike), `itself` what the box rule chooses without labels, with its
kappa. Gains are over the heat as it is, image by image, with their standard errors. Variants:

- mirrored: mean of the heatmap and of that of the mirrored image, mirrored back.
- less mean: the mean heatmap of the set is subtracted.
- shifted: moved by what brings heatmaps of images and of their mirror images closest together.
- x1.5, x2: inputs of that many times the side.
- two layers: mean with the heatmap of an earlier layer, on the grid of that one.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.map_quality import best_iou, with_truth
from ccrop_pipeline.boxset import RuleChoice
from ccrop_pipeline.images import Sample
from ccrop_pipeline.images.decode import decode
from ccrop_pipeline.localize import Encoder, channel_sum
from ccrop_pipeline.localize.attention import class_attention, key_similarity
from ccrop_pipeline.localize.heatmaps import l2_norm, min_max
from ccrop_pipeline.localize.rule_choice import (
    MEAN_SHARE,
    THRESHOLDS,
    first_fit,
    freedom,
    kappa,
    weight_of,
)
from ccrop_pipeline.models import open_encoder

Floats = NDArray[np.floating]
FIXED = tuple(np.arange(0.04, 0.9, 0.02).round(2).tolist())
CENTRE_80 = (0.1, 0.1, 0.9, 0.9)
FIGURES = ("kappa", "freedom", "mean_area")
SIDE = 112  # pixels of the square that boxes are drawn on
SHIFTS = np.arange(-1, 1.01, 0.125)  # in cells


def heat_of(encoder: Encoder, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the heatmaps of a batch, float32 in [0, 1], for two maps."""
    if encoder.has_attention:
        attention = encoder.attention(images)
        heat = {"keys": key_similarity(attention), "attention": class_attention(attention, "mean")}
    else:
        features = encoder.features(images)
        heat = {"sum": channel_sum(features), "l2": l2_norm(features)}
    return {name: min_max(one).float() for name, one in heat.items()}


def windows_of(n: int, seed: int) -> Floats:
    """Return the whole image and two windows of it, (n, 3, 4)."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.65, 0.9, (n, 2, 2))
    corners = rng.uniform(0, 1 - sides)
    windows = np.concatenate([corners, corners + sides], axis=2)
    return np.concatenate([np.tile([0.0, 0, 1, 1], (n, 1, 1)), windows], axis=1)


def raw_heat(samples: list[Sample], windows: Floats, encoders: dict[str, Encoder]) -> dict:
    """Return heatmaps (n, 3, h, w), by name of encoder and map; `mirror` mirrored back."""
    parts: dict[str, list[Floats]] = {}
    for row, sample in enumerate(samples):
        image = decode(sample.image)
        boxes = windows[row] * (image.size * 2)
        for name, encoder in encoders.items():
            size = (encoder.input_size,) * 2
            cut = [image.resize(size, Image.Resampling.BILINEAR, box=tuple(b)) for b in boxes]
            pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
            heat = heat_of(encoder, pixels.flip(3) if name == "mirror" else pixels)
            for map_name, one in heat.items():
                back = one.flip(2) if name == "mirror" else one
                parts.setdefault(f"{map_name} {name}", []).append(back.cpu().numpy())
    return {name: np.stack(part) for name, part in parts.items()}


def stretched(heat: Floats) -> Floats:
    """Return heatmaps (..., h, w) with their least value at 0 and their greatest at 1."""
    low, high = heat.min((-2, -1), keepdims=True), heat.max((-2, -1), keepdims=True)
    return (heat - low) / np.maximum(high - low, 1e-6)


def resized(heat: Floats, grid: tuple[int, int], shift: float = 0.0) -> Floats:
    """Return heatmaps bilinearly on another grid, moved by a shift in cells of their own."""
    flat = torch.from_numpy(heat.reshape(-1, 1, *heat.shape[-2:]).astype(np.float32))
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in grid]
    y, x = torch.meshgrid(
        *(a - 2 * shift / s for a, s in zip(axes, flat.shape[2:], strict=True)), indexing="ij"
    )
    where = torch.stack([x, y], 2).expand(len(flat), -1, -1, -1)
    moved = torch.nn.functional.grid_sample(flat, where, padding_mode="border", align_corners=False)
    return moved.numpy().reshape(*heat.shape[:-2], *grid)


def own_shift(heat: Floats, mirror: Floats) -> float:
    """Return the shift in cells after which heat and heat of mirror images are closest, of x."""

    def apart(shift: float) -> float:
        one = _moved_along_x(heat[:, 0], shift)
        other = _moved_along_x(mirror[:, 0], -shift)
        return float(((one - other)[:, :, 1:-1] ** 2).mean())

    return float(min(SHIFTS, key=apart))


def _moved_along_x(heat: Floats, shift: float) -> Floats:
    cells = np.arange(heat.shape[2]) - shift
    cells = cells.clip(0, heat.shape[2] - 1)
    low = np.floor(cells).astype(int).clip(0, heat.shape[2] - 2)
    share = (cells - low).astype(heat.dtype)
    return heat[:, :, low] * (1 - share) + heat[:, :, low + 1] * share


def variants(raw: dict[str, Floats], of: str) -> dict[str, Floats]:
    """Return the heat of a map, as it is first, and changed in each way."""
    plain, mirror = raw[f"{of} plain"].astype(np.float32), raw[f"{of} mirror"].astype(np.float32)
    both = stretched((plain + mirror) / 2)
    fine = (4 * plain.shape[2], 4 * plain.shape[3])
    shift = own_shift(plain, mirror)
    print(f"{of}: own shift {shift:+.3f} cells of {plain.shape[3]}", file=sys.stderr)
    found = {
        "as it is": plain,
        "mirrored": both,
        "less mean": stretched(plain - plain[:, 0].mean(0)),
        "shifted": resized(plain, fine, shift),
        "mirrored, less mean": stretched(both - both[:, 0].mean(0)),
    }
    for name in ("x1.5", "x2"):
        if f"{of} {name}" in raw:
            found[name] = raw[f"{of} {name}"].astype(np.float32)
    if f"{of} earlier" in raw:
        earlier = raw[f"{of} earlier"].astype(np.float32)
        found["earlier layer"] = earlier
        grid = (earlier.shape[2], earlier.shape[3])
        found["two layers"] = stretched(resized(plain, grid) + earlier)
    return found


@dataclass
class Profiles:
    """Greatest heat of each row and column of upsampled heatmaps, (n, SIDE), and mean heat."""

    rows: Floats
    columns: Floats
    means: Floats

    @classmethod
    def of(cls, heat: Floats) -> "Profiles":
        """Upsample heatmaps (n, h, w) bilinearly."""
        parts = [resized(part, (SIDE, SIDE)) for part in np.array_split(heat, len(heat) // 64 + 1)]
        rows = np.concatenate([part.max(2) for part in parts])
        columns = np.concatenate([part.max(1) for part in parts])
        return cls(rows, columns, heat.mean((1, 2), dtype=np.float64))

    def boxes(self, thresholds: Floats | float) -> Floats:
        """Return the boxes (n, 4) around what is above a threshold, or one for each heatmap."""
        limit = np.broadcast_to(thresholds, len(self.means))[:, None]
        found = (self.rows > limit).any(1)[:, None]
        axes = (self.columns > limit, self.rows > limit)
        low = [content.argmax(1) / SIDE for content in axes]
        high = [1 - content[:, ::-1].argmax(1) / SIDE for content in axes]
        boxes = np.stack([*low, *high], axis=1)
        return np.where(found, boxes, [[0.0, 0, 1, 1]])


def outcome(heat: Floats, windows: Floats, truths: list[Floats]) -> dict[str, tuple[dict, Floats]]:
    """Return what was chosen and the IoU of each image, for `k .1`, `best` and `itself`."""
    whole = Profiles.of(heat[:, 0])
    inside = Profiles.of(heat[:, 1:].reshape(-1, *heat.shape[2:]))

    def tried(threshold: float) -> tuple[Floats, float, float, float]:
        limits = [profiles.means * MEAN_SHARE + threshold for profiles in (whole, inside)]
        boxes, own = (
            p.boxes(at.clip(0, 0.99)) for p, at in zip((whole, inside), limits, strict=True)
        )
        agreement = kappa(boxes, own.reshape(len(heat), 2, 4), windows[:, 1:])
        return boxes, agreement, freedom(boxes), area(boxes)

    def area(boxes: Floats) -> float:
        return float((boxes[:, 2:] - boxes[:, :2]).prod(1).mean())

    fixed = {k: whole.boxes(k) for k in FIXED}
    fits = {k: best_iou(boxes, truths) for k, boxes in fixed.items()}
    best = max(fits, key=lambda k: (float((fits[k] >= 0.5).mean()), float(fits[k].mean())))
    every, *columns = zip(*map(tried, THRESHOLDS), strict=True)
    figures = {"threshold": THRESHOLDS, **dict(zip(FIGURES, columns, strict=True))}
    choice = RuleChoice(len(heat), 2, worthless=False, **figures)
    at, weight = first_fit(choice), weight_of(choice)
    chosen = every[at or 0] * (1 - weight) + weight * np.array(CENTRE_80)
    return {
        "k .1": ({"value": 0.1, "area": area(fixed[0.1])}, fits[0.1]),
        "best": ({"value": best, "area": area(fixed[best])}, fits[best]),
        "itself": (
            {
                "value": THRESHOLDS[at or 0],
                "area": area(chosen),
                "kappa": choice.kappa[at or 0],
                "worthless": at is None,
            },
            best_iou(chosen, truths),
        ),
    }


def main() -> None:
    """Print a JSON line for each map, variant and way to choose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--model", required=True)
    parser.add_argument("--earlier", help="an earlier layer")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heat", type=Path, help="heat is kept in this .npz, and read from it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples, every = with_truth(options.source)
    taken = np.random.default_rng(options.seed).permutation(len(samples))[: options.images]
    truths, windows = [every[row] for row in taken], windows_of(len(taken), options.seed)
    if options.heat and options.heat.exists():
        raw = dict(np.load(options.heat))
    else:
        plain = open_encoder(options.model)
        encoders = {"plain": plain, "mirror": plain}
        for scale in (1.5, 2):
            encoders[f"x{scale:g}"] = replace(plain, input_size=int(plain.input_size * scale))
        if options.earlier:
            encoders["earlier"] = replace(plain, layer=options.earlier)
        raw = raw_heat([samples[row] for row in taken], windows, encoders)
        if options.heat:
            np.savez_compressed(
                options.heat, **{name: one.astype(np.float16) for name, one in raw.items()}
            )
    for of in dict.fromkeys(name.split()[0] for name in raw):
        before: dict[str, tuple[dict, Floats]] = {}
        for name, heat in variants(raw, of).items():
            results = outcome(heat, windows, truths)
            before = before or results
            for way, (what, fits) in results.items():
                line = {"map": of, "heat": name, "chosen": way, **what, "n": len(fits)}
                for figure, ours, theirs in (
                    ("found", fits >= 0.5, before[way][1] >= 0.5),
                    ("mean_iou", fits, before[way][1]),
                ):
                    apart = ours.astype(float) - theirs
                    line[figure] = ours.mean()
                    line[f"{figure}_gain"] = apart.mean()
                    line[f"{figure}_se"] = apart.std() / np.sqrt(len(fits))
                print(json.dumps(line, default=float), flush=True)


if __name__ == "__main__":
    main()
