"""What to do with a set of images: a look at them, and three commands with the time of each."""

import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ccrop_pipeline.errors import CcropError, SourceError, counted, few

from .model_options import precision_for
from .sources import record_of
from .train import train
from .trial import Trial

if TYPE_CHECKING:
    from ccrop_pipeline.images import Sample, Source
    from ccrop_pipeline.localize import Encoder
    from ccrop_pipeline.recipes import Recipe
    from ccrop_pipeline.training import PretrainedEncoder

# Encoders that have seen more than the images of one folder. Boxes of the first were measured
# (lab/audits.md), and it is the quickest.
ENCODERS = ("timm:tf_efficientnet_lite0", "torchvision:resnet50")
LOOKED_AT = 100  # images of which the headers are read
LEAST = 64  # images to train on: a batch
FEW = 500  # training on 419 changed nothing that could be shown (lab/benchmarks.md)
_ON_CPU = 128  # pixels of views, of which no CPU sees enough at 224
_DECODE_SECONDS = 3.0  # for decoding; of further images only the header is read


@dataclass
class Step:
    """One of the commands.

    Attributes:
        what: What it does, for people.
        words: The command, without `ccrop`.
        seconds: What it is expected to take; None where it was not tried.
        epochs: Epochs of training, likewise.
    """

    what: str
    words: list[str]
    seconds: float | None = None
    epochs: int | None = None

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(["ccrop", *self.words])


@dataclass
class Choice:
    """What boxes are to come from.

    Attributes:
        model: As `--model` has it.
        weights: As `--weights` has it.
        is_here: Whether its weights are on this machine.
    """

    model: str
    weights: str | None = None
    is_here: bool = True

    @cached_property
    def to_try(self) -> "PretrainedEncoder":
        """The model, with random weights where its own are not here: they take the same time."""
        from ccrop_pipeline.training import PretrainedEncoder

        return PretrainedEncoder(self.model, self.weights or (None if self.is_here else "random"))

    @property
    def words(self) -> list[str]:
        """What stands behind `--model` or `--init`."""
        return [self.model, *(["--weights", self.weights] if self.weights else [])]


@dataclass
class Look:
    """What the images are like.

    Attributes:
        source: What opens them: of what is divided into splits, the one to train on.
        opened: The same, opened.
        images: How many there are; None where only reading all would tell.
        record: Counts, classes, and what was passed over, as `sources.record_of` has them.
        splits: What opens each split, where what was named is divided.
        test: The split to test on, if there is one with the same classes.
        no_test: Why another split is not tested on, where there is one.
        sizes: Width and height of those that were looked at, in pixels.
        unreadable: Those of them that cannot be decoded, and why.
        samples: Those of them that can.
    """

    source: str
    opened: "Source"
    images: int | None
    record: dict[str, Any]
    splits: dict[str, str] = field(default_factory=dict)
    test: str | None = None
    no_test: str | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    samples: "list[Sample]" = field(default_factory=list)

    @property
    def too_few(self) -> str | None:
        """Why no encoder that begins at random learns boxes of worth from them; None if it may."""
        from ccrop_pipeline.recipes import too_few

        return None if self.images is None else too_few(self.images)


def look_at(spec: str) -> Look:
    """Count the images of a source, and look at some.

    Raises:
        CcropError: If there are none, or it cannot be opened.
    """
    from ccrop_pipeline.images import SplitsError, open_source, spread_samples

    splits: dict[str, str] = {}
    try:
        opened = open_source(spec)
    except SplitsError as error:
        splits = error.splits
        if "train" not in splits:
            raise
        spec = splits["train"]
        opened = open_source(spec)
    images = len(opened.index()) if opened.random_access else None
    look = Look(spec, opened, images, record_of(opened), splits)
    for name in ("test", "validation"):
        if name in splits and look.test is None:
            why = _why_no_test(look, splits[name])
            look.test = None if why else splits[name]
            look.no_test = None if look.test else look.no_test or why
    _decode_some(look, spread_samples(opened, LOOKED_AT))
    return look


def _decode_some(look: Look, samples: "Iterable[Sample]") -> None:
    from ccrop_pipeline.images import UnreadableImage, decode_reduced, stored_size

    started = time.perf_counter()
    for sample in samples:
        try:
            size = stored_size(sample.image)
            if time.perf_counter() - started < _DECODE_SECONDS:
                decode_reduced(sample.image, 4)
        except UnreadableImage as error:
            look.unreadable.append(f"{sample.key}: {error}")
        else:
            look.sizes.append(size)
            look.samples.append(sample)
    if not look.samples:
        raise SourceError(
            f"of {look.source}, none of {counted(len(look.unreadable), 'image')} that were looked "
            f"at can be decoded; the first is {look.unreadable[0]} Check the files."
        )


def _why_no_test(look: Look, split: str) -> str | None:
    """Return why a split is no `--test`; None if it is one."""
    from ccrop_pipeline.images import open_source

    own = look.opened.classes
    try:
        classes = open_source(split).classes
    except CcropError as error:  # it is empty or damaged
        return f"{split} is no --test: {error}"
    if not own:
        return f"{split} is no --test: the images of {look.source} have no classes."
    if not classes:
        return f"{split} is no --test: it has no classes, unlike {look.source} ({few(own)})."
    if classes != own:
        theirs = f"{look.source} ({few(own)})"
        return f"{split} is no --test: its classes ({few(classes)}) are not those of {theirs}."
    if len(own) == 1:
        return f"{split} is no --test: of one class ({own[0]}), a probe tells nothing."
    return None


def propose(look: Look, choice: Choice | None, out: Path) -> list[Step]:
    """Return the commands to run.

    Args:
        look: The images.
        choice: What boxes are to come from; None for an encoder that is trained on the images.
        out: Folder for what they make.
    """
    boxes, run, page = (str(out / name) for name in ("boxes", "run", "boxes.html"))
    test = ["--test", look.test] if look.test else []
    source = ["--model", *(choice.words if choice else [run])]
    compute = Step("the box of every image", ["boxes", "compute", look.source, boxes, *source])
    see = Step("a page to look at them", ["boxes", "report", boxes, look.source, page])
    words = ["train", look.source, run]
    if choice is None:
        what = "training from random weights: with random crops, then with boxes of its own"
        return [Step(what, [*words, *_fresh(look), *test]), compute, see]
    if look.images is not None and look.images < LEAST:
        return [compute, see]
    with_boxes = ["--boxes", boxes, *test]
    if not choice.to_try.backbone:
        what = "training with these boxes, from random weights"
        return [compute, see, Step(what, [*words, *_fresh(look), *with_boxes])]
    more = [*_continued(look, choice.to_try), "--init", *choice.words, *with_boxes]
    what = "training with these boxes, from the weights of that model"
    return [compute, see, Step(what, [*words, *more])]


def has_gpu() -> bool:
    """Tell whether there is a GPU to train on."""
    from ccrop_pipeline.localize import open_device

    return open_device("auto").type != "cpu"


def _fresh(look: Look) -> list[str]:
    """Return how to train on the images from random weights."""
    from ccrop_pipeline.recipes import load_recipe

    name = "simclr" if has_gpu() else "photos-simclr-2core"
    recipe = load_recipe(name)
    side = int(median(min(size) for size in look.sizes))
    settings = _settings(look, recipe)
    if side < recipe.image_size:
        settings.append(f"image_size={max(32, side // 32 * 32)}")
    return ["--recipe", name, *_set(settings)]


def _continued(look: Look, model: "PretrainedEncoder") -> list[str]:
    """Return how to train on the images from the weights of a model."""
    from ccrop_pipeline.localize.encoder import probe_images
    from ccrop_pipeline.recipes import gentle_epochs, load_recipe

    recipe, encoder = load_recipe("continue-photos"), model.encoder
    settings = _settings(look, recipe)
    if look.images and (epochs := gentle_epochs(look.images, recipe.epochs)) < recipe.epochs:
        settings.append(f"epochs={epochs}")
    size = encoder.input_size
    if size > _ON_CPU and not has_gpu():
        cells = encoder.features(probe_images(size)).shape[-1]
        size = _ON_CPU // (size // cells) * (size // cells)  # a transformer takes whole patches
    if size != recipe.image_size:
        settings.append(f"image_size={size}")
    if blocks := _blocks_to_freeze(encoder):
        settings.append(f"freeze={blocks}")
    return ["--recipe", "continue-photos", *_set(settings)]


def _settings(look: Look, recipe: "Recipe") -> list[str]:
    from ccrop_pipeline.recipes import fitting_batch_size

    fitting = fitting_batch_size(look.images, recipe.batch_size) if look.images else 0
    return [f"batch_size={fitting}"] if 0 < fitting < recipe.batch_size else []


def _set(settings: Iterable[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _blocks_to_freeze(encoder: "Encoder") -> int:
    """Return all but the last block of a network with batch norm (lab/backbones.md), else 0."""
    from torch.nn.modules.batchnorm import _BatchNorm

    from ccrop_pipeline.models.trainable import open_backbone

    if not any(isinstance(part, _BatchNorm) for part in encoder.module.modules()):
        return 0
    return max(open_backbone(encoder.name, [encoder.input_size]).depths().values())


def measure(look: Look, steps: list[Step], choice: Choice | None, each: int) -> None:
    """Try each command on some of the images, in a temporary folder, and note what it would take.

    Args:
        look: The images.
        steps: The commands.
        choice: What boxes are to come from.
        each: Number of images that times are for.
    """
    from ccrop_pipeline.base.files import temporary_folder
    from ccrop_pipeline.compute.choice import some_of
    from ccrop_pipeline.localize import open_device
    from ccrop_pipeline.models import open_encoder

    device = open_device("auto")
    precision = precision_for(device)
    chosen_by = min(each, some_of(look.opened)[1])
    with temporary_folder("ccrop-quickstart-") as folder:
        trial = Trial(folder, look.samples, each, chosen_by, device)
        for step in steps:
            if step.words[0] == "train":
                given = train.make_context("train", step.words[1:]).params
                step.seconds, step.epochs = trial.train(given, choice.to_try if choice else None)
            elif step.words[1] == "compute":
                encoder = choice.to_try.encoder if choice else open_encoder(trial.folder / "run")
                step.seconds = trial.boxes(replace(encoder, device=device, precision=precision))
            else:
                step.seconds = trial.report()
