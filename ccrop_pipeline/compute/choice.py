"""The box rule of a box set: given, or set by some of its images once, for all who compute it.

What one process chose is left in a hidden file of the box set until the manifest is written, so
that the others and whoever goes on after a kill take the same; every shard carries it as well.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.base import Location, Observer, open_folder
from ccrop_pipeline.base.files import TargetTakenError
from ccrop_pipeline.base.stores import LocalFolder
from ccrop_pipeline.base.values import from_plain, parse_json, to_plain
from ccrop_pipeline.boxset import (
    LocalizerInfo,
    Provenance,
    RuleChoice,
    SourceInfo,
    library_versions,
    provenance_in,
)
from ccrop_pipeline.boxset.writing import CHOICE
from ccrop_pipeline.compute.locating import Locator
from ccrop_pipeline.errors import BoxSetError, counted
from ccrop_pipeline.images import Sample, Source, image_hash
from ccrop_pipeline.images.decode import UnreadableImage
from ccrop_pipeline.images.source import samples_at, spread
from ccrop_pipeline.images.squares import decode_for
from ccrop_pipeline.localize import Localizer, rule_of
from ccrop_pipeline.localize.rule_choice import (
    FEWEST,
    SIDES,
    WINDOWS,
    choose_rule,
    draw_windows,
    too_few,
)

# Images that are looked at, twice and more as often as all others: one in so many, within limits.
_EVERY, _FEW, _MOST = 8, 200, 400
_TRIES = 4  # so many times as many are read where some are unreadable, or copies of others
_SHARDS = 32  # the most they are taken from
# What results depend on in their last digits.
LIBRARIES = ("torch", "torchvision", "pillow")
# Stands for a choice that is still to be made.
_OPEN = RuleChoice(0, WINDOWS, worthless=False)


def provenance_of(source: Source, localizer: Localizer) -> Provenance:
    """Return what a box set of these records of how it was made.

    Where the rule sets itself and has not yet, it stands for all that it may come to: the same
    whatever is chosen, and that of no box set.
    """
    is_open = localizer.rule.sets_itself
    if is_open:
        localizer = replace(localizer, rule=replace(localizer.rule, threshold=0.0))
    return Provenance(
        encoder=localizer.encoder.info,
        localizer=replace(localizer.info, choice=_OPEN if is_open else None),
        source=SourceInfo(source.kind, source.fingerprint()),
        libraries=library_versions(*LIBRARIES),
    )


def settle(
    source: Source,
    localizer: Localizer,
    folder: Location,
    asked: Provenance,
    *,
    form: str,
    batch_size: int,
    threads: int,
    observer: Observer,
) -> Provenance:
    """Return what makes the boxes of a box set, with the rule that it has, or now sets itself.

    Args:
        source: Images.
        localizer: Encoder, heatmap and rule; `rule_of` gives the rule that was settled.
        folder: The box set, where others may have left what they chose.
        asked: The `provenance_of` both, for which all weights are read.
        form: Form of its shards.
        batch_size: Images a forward pass.
        threads: Decoding threads.
        observer: Hears how it goes, and of weights and boxes that are worth nothing.

    Raises:
        BoxSetError: If boxes are there whose rule was given, or that no model made.
    """
    encoder = localizer.encoder
    if encoder.epoch is None and asked.encoder and asked.encoder.epoch == 0:
        observer.warning(
            f"{encoder.name}: most weights are noise, as before training; what it finds means "
            "nothing."
        )
    if not localizer.rule.sets_itself:
        return asked
    weight = localizer.rule.centre_weight
    info = _recorded(folder, form, asked, weight)
    if info is None:
        info = _chosen(source, localizer, batch_size, threads, observer)
        if info.choice and info.choice.threshold:  # else every process comes to the same
            info = _record(folder, form, asked, info, weight)
    if info.choice and info.choice.worthless:
        observer.warning(worthless(info.choice))
    return replace(asked, localizer=info)


def worthless(choice: RuleChoice) -> str:
    """Return the warning of boxes that carry nothing of their images."""
    return (
        f"no threshold gives boxes that are worth anything, on {counted(choice.images, 'image')}: "
        "they hang at the borders and carry nothing of what is in the image. Train the encoder for "
        "longer, choose another layer, map or model, or take the central box of every image "
        "(`ccrop boxes centre`)."
    )


def forget(folder: Location, asked: Provenance) -> None:
    """Remove what was left for others, once the box set is complete and says it."""
    place = open_folder(folder)
    place.remove(_file_of(asked))
    if isinstance(place, LocalFolder):  # and of what was begun with another model, and given up
        for left in place.path.glob(f"{CHOICE}*.json"):
            place.remove(left.name)


def _file_of(asked: Provenance) -> str:
    return f"{CHOICE}{asked.fingerprint[:16]}.json"


def _recorded(
    folder: Location, form: str, asked: Provenance, weight: float | None
) -> LocalizerInfo | None:
    """Return the localizer that was settled for this box set before, None where none was."""
    assert asked.localizer is not None
    found = provenance_in(folder, form=form)
    if found:
        info = found.localizer
        if info is None:
            raise BoxSetError(
                f"{folder} holds boxes that no model made ({found.rule}). Choose another folder, "
                "or delete it."
            )
        if info.choice is None:
            cut = f"threshold {info.threshold}" if info.mass is None else f"mass {info.mass}"
            raise BoxSetError(
                f"{folder} holds boxes whose rule was given ({cut}), and that of these is to set "
                "itself. Give the same rule to go on with them, choose another folder, or delete "
                "it."
            )
        # Where they differ in anything else, that is said when its shards are looked through.
        return _with_choice(asked.localizer, info, weight)
    place, file = open_folder(folder), _file_of(asked)
    if place.has(file):
        # Of a process that completes the set just now, it is gone.
        with suppress(FileNotFoundError, ValueError), place.local(file) as path:
            plain = parse_json(path.read_text(encoding="utf-8"))
            left = from_plain(LocalizerInfo, plain, ignore_unknown=True)
            rule_of(left)  # refuses numbers that no rule has
            # Nothing else may be in it, or boxes would be made by one thing and say another.
            is_ours = left == _with_choice(asked.localizer, left, weight)
            if is_ours and left.choice and left.choice.threshold:
                return left
    return None


def _with_choice(asked: LocalizerInfo, made: LocalizerInfo, weight: float | None) -> LocalizerInfo:
    """Return what is asked for with all that set itself; the centre weight may be given."""
    chosen = {name: getattr(made, name) for name in ("threshold", "mean_share", "choice")}
    return replace(asked, **chosen, centre_weight=made.centre_weight if weight is None else weight)


def _record(
    folder: Location, form: str, asked: Provenance, made: LocalizerInfo, weight: float | None
) -> LocalizerInfo:
    """Leave a choice for others, and return what holds: the first one that was left."""
    place, file = open_folder(folder), _file_of(asked)
    text = json.dumps(to_plain(made))
    with suppress(TargetTakenError), place.written(file) as path:
        path.write_text(text, encoding="utf-8")
    held = _recorded(folder, form, asked, weight)
    return held or made


def _chosen(
    source: Source, localizer: Localizer, batch_size: int, threads: int, observer: Observer
) -> LocalizerInfo:
    (samples, enough), size = some_of(source), localizer.encoder.input_size
    first = list(islice(samples, FEWEST))
    if len(first) < FEWEST:
        rule, choice = too_few(localizer.rule, len(first))
        return replace(replace(localizer, rule=rule).info, choice=choice)
    observer.choosing()
    seen = see_windows(
        chain(first, samples),
        enough,
        localizer,
        batch_size=batch_size,
        threads=threads,
        observer=observer,
    )
    if seen:
        rule, choice = choose_rule(localizer.rule, seen.heatmaps, seen.inside, seen.windows, size)
    else:
        rule, choice = too_few(localizer.rule, 0)
    return replace(replace(localizer, rule=rule).info, choice=choice)


@dataclass(frozen=True, eq=False)
class SeenWindows:
    """Heatmaps of images with any heat, and of windows of them.

    Attributes:
        keys: Of the images, n.
        heatmaps: float16 `(n, h, w)`.
        inside: Of the windows, float16 `(n, WINDOWS, h, w)`.
        windows: Relative to their image, `(n, WINDOWS, 4)`.
    """

    keys: list[str]
    heatmaps: NDArray[np.float16]
    inside: NDArray[np.float16]
    windows: NDArray[np.float64]


def see_windows(
    samples: Iterable[Sample],
    enough: int,
    localizer: Localizer,
    *,
    batch_size: int,
    threads: int,
    observer: Observer,
) -> SeenWindows | None:
    """Compute the heatmaps of images and of windows of them; None where none can be decoded.

    Args:
        samples: Images; what is unreadable, or a copy of one before, is passed over.
        enough: The most that are looked at.
        localizer: Encoder and map; its rule may be one that sets itself.
        batch_size: Images and windows a forward pass.
        threads: Decoding threads.
        observer: Hears of a batch that is too large.
    """
    any_rule = replace(localizer.rule, threshold=0.0, mass=None)
    locator = Locator(replace(localizer, rule=any_rule), observer.batch_halved)
    size, keys = localizer.encoder.input_size, list[str]()
    seen = []
    images = batch_size // (1 + WINDOWS)
    for names, pixels, drawn in _batches(_different(samples), enough, size, images, threads):
        keys += names
        seen.append((_maps(locator, pixels), drawn))
    if not seen:
        return None
    heat, windows = (np.concatenate(each) for each in zip(*seen, strict=True))
    usable = np.flatnonzero(heat[:, 0].any(axis=(1, 2)))
    heat, windows = heat[usable], windows[usable]
    return SeenWindows([keys[row] for row in usable], heat[:, 0], heat[:, 1:], windows)


def _different(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield each image once: copies have the same box, which agrees with that of the other."""
    seen = set[int]()
    for sample in samples:
        content = image_hash(sample.image)
        if content not in seen:
            seen.add(content)
            yield sample


def _batches(
    samples: Iterator[Sample], enough: int, size: int, images: int, threads: int
) -> Iterator[tuple[list[str], NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield keys and `squares` of the readable ones, some images at a time, until it is enough."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        while part := list(islice(samples, min(enough, max(1, images)))):
            seen = pool.map(squares, part, [size] * len(part))
            named = zip((sample.key for sample in part), seen, strict=True)
            if found := [(key, *pair) for key, pair in named if pair is not None]:
                keys, pixels, windows = zip(*found, strict=True)
                yield list(keys), np.stack(pixels), np.stack(windows)
                enough -= len(keys)


def _maps(locator: Locator, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
    flat = pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2)
    heat = locator.heatmaps(flat)
    return heat.reshape(len(pixels), -1, *heat.shape[1:])


def some_of(source: Source) -> tuple[Iterator[Sample], int]:
    """Return some images from shards spread over a source, always the same ones, and how many do.

    It is one in `_EVERY`, but at least `_FEW` and at most `_MOST`: spread over all where any image
    can be reached at no cost, else the first of each shard, all taken for as long as the first.
    Others follow in the place of those that are of no use, up to `_TRIES` times as many.
    """
    shards = source.shards
    is_cheap = source.kind != "parquet" and (source.kind != "tar" or len(shards) == 1)
    if source.random_access and is_cheap:
        count = len(source.index())
        return samples_at(source.index(), dict.fromkeys(_places(count))), _wanted(count)
    chosen = [shards[place] for place in spread(len(shards), _SHARDS)]
    length = sum(1 for shard in chosen[:1] for _ in islice(source.read(shard), _MOST))
    quota = -(-_wanted(length * len(shards)) // len(chosen)) if chosen else 0
    return _in_turns(source, chosen, quota), quota * len(chosen)


def _places(count: int) -> Iterator[int]:
    for times in (1, _TRIES):
        yield from spread(count, times * _wanted(count))


def _in_turns(source: Source, shards: Sequence[str], quota: int) -> Iterator[Sample]:
    """Yield the first images of each shard, then the next ones of each, and so on."""
    left = list(shards)
    for start in range(0, _TRIES * quota, max(1, quota)):
        for shard in tuple(left):
            taken = 0
            for sample in islice(source.read(shard), start, start + quota):
                yield sample
                taken += 1
            if taken < quota:
                left.remove(shard)


def _wanted(images: int) -> int:
    return min(_MOST, max(_FEW, images // _EVERY))


def squares(sample: Sample, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]] | None:
    """Resize an image and windows of it to squares; the windows depend on its key alone.

    Returns:
        uint8 `(1 + WINDOWS, size, size, 3)`, the image first, and the windows; None where the
        image is unreadable.
    """
    windows = draw_windows(image_hash(sample.key.encode()))
    try:
        image = decode_for(sample.image, size, SIDES[0])
    except UnreadableImage:
        return None
    edges = np.concatenate([[[0.0, 0.0, 1.0, 1.0]], windows]) * (image.size * 2)
    views = [
        np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box)))
        for box in edges.tolist()
    ]
    return np.stack(views), windows
