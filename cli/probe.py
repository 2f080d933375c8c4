"""`ccrop probe`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import counted

from .model_options import expect_model, model_options, open_for_features
from .option_types import FiniteRange
from .printing import note, print_json, print_line, warn

if TYPE_CHECKING:
    from ccrop_pipeline.images import Source
    from ccrop_pipeline.localize import Encoder
    from ccrop_pipeline.probes import Features, LabelledImages, LinearResult

# Options that only one of the probes reads, and the flag of that probe.
_OWN = {"k": "kNN", "temperature": "kNN", "epochs": "--augmented", "rates": "--augmented"}


@click.command("probe")
@click.argument("model")
@click.argument("train_source")
@click.argument("test_source", required=False)
@click.option(
    "--linear",
    is_flag=True,
    help="A linear classifier on features of whole images, its penalty chosen on a tenth of the "
    "training images.",
)
@click.option(
    "--augmented",
    is_flag=True,
    help="A linear classifier trained on random crops and flips, as in the papers, its learning "
    "rate chosen on a tenth of the training images. Slow: the encoder runs in every epoch.",
)
@click.option(
    "--k",
    type=click.IntRange(1, 100_000),
    help="Neighbours.  [default: 200, or a tenth of the training images where that is less]",
)
@click.option(
    "--temperature",
    type=FiniteRange(0.0001, 1000),
    default=0.1,
    show_default=True,
    help="Votes weigh exp(similarity / temperature).",
)
@click.option(
    "--epochs", type=click.IntRange(1), default=100, show_default=True, help="With --augmented."
)
@click.option(
    "--rate",
    "rates",
    type=FiniteRange(0, min_open=True),
    multiple=True,
    help="With --augmented: a learning rate for batches of 512; may be repeated.  "
    "[default: 0.1, 0.3, 1, 3, 10, 30]",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def probe(
    context: click.Context,
    /,
    model: str,
    train_source: str,
    test_source: str | None,
    linear: bool,
    augmented: bool,
    k: int | None,
    temperature: float,
    epochs: int,
    rates: tuple[float, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how well the features of MODEL tell classes apart.

    MODEL is what `ccrop boxes compute --model` takes: a run, a checkpoint, a network by name.
    Images of TEST_SOURCE take the class that their nearest neighbours in TRAIN_SOURCE vote for,
    or that a linear classifier trained on TRAIN_SOURCE gives them. Without TEST_SOURCE, or with
    the same images in both, about a sixth of the images, chosen by key, take the test and the
    others answer. A torchvision data set, such as cifar10, stands for its training images in the
    first place and its test images in the second. See docs/probes.md.

    \b
    Example:
      ccrop probe runs/first data/photos
      ccrop probe runs/first data/photos --linear
    """
    way = _way(context, linear, augmented)
    expect_model(model, options["weights"])
    from .sources import expect, open_source

    for source in filter(None, (train_source, test_source)):
        expect(source)
    from ccrop_pipeline.probes import KnnSettings

    encoder = open_for_features(model, options)
    test = open_source(test_source, split="test") if test_source else None
    images = _labelled(open_source(train_source), test)
    if way == "knn":
        found = _knn(images, encoder, KnnSettings(k=k, temperature=temperature))
    elif way == "linear":
        found = _linear(images, encoder)
    else:
        found = _augmented(images, encoder, epochs, rates)
    counts = {"train": len(images[0].rows), "test": len(images[1].rows)}
    if as_json:
        result = {"model": encoder.name, "epoch": encoder.epoch, "layer": encoder.layer}
        print_json({**found, **counts, **result})
    else:
        print_line(_sentence(way, found, counts, encoder))


def _way(context: click.Context, linear: bool, augmented: bool) -> str:
    if linear and augmented:
        raise click.UsageError("give --linear or --augmented, not both.")
    way = "linear" if linear else "augmented" if augmented else "knn"
    for name, flag in _OWN.items():
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and flag.removeprefix("--").lower() != way:
            option = "--rate" if name == "rates" else f"--{name}"
            raise click.UsageError(f"{option} belongs to the probe {flag}, not to this one.")
    return way


def _labelled(train: "Source", test: "Source | None") -> "tuple[LabelledImages, LabelledImages]":
    from ccrop_pipeline.probes import bank_and_queries

    bank, queries = bank_and_queries(train, train.index(), test)
    if queries.whole is bank.whole:
        asked, all_images = len(queries.rows), len(bank.rows) + len(queries.rows)
        note(
            f"{asked:,} of the {all_images:,} images of {train.location} take the test, the "
            "others answer"
        )
    return bank, queries


def _knn(
    images: "tuple[LabelledImages, LabelledImages]", encoder: "Encoder", settings: Any
) -> dict[str, Any]:
    from ccrop_pipeline.probes import all_vote, knn_accuracy

    bank, queries = _embedded(images, encoder)
    accuracy = knn_accuracy(bank, queries, settings)
    if few := all_vote("--k", settings.k, len(bank.labels)):
        warn(few)
    k = settings.neighbours(len(bank.labels))
    return {"knn": accuracy, "k": k, "temperature": settings.temperature}


def _linear(images: "tuple[LabelledImages, LabelledImages]", encoder: "Encoder") -> dict[str, Any]:
    from ccrop_pipeline.probes import linear_probe, validation_split

    fitted, validation = validation_split(images[0])
    train, held, test = _embedded((fitted, validation, images[1]), encoder)
    result = linear_probe(train, held, test, device=encoder.device)
    return _record("linear", result, len(validation.rows))


def _embedded(parts: "Sequence[LabelledImages]", encoder: "Encoder") -> "list[Features]":
    from ccrop_pipeline.probes import embed
    from ccrop_pipeline.views.batch import unreadable_note

    from .progress import Counter

    with Counter("probe", sum(len(part.rows) for part in parts)) as observer:
        found = [embed(part, encoder, threads=_cores(), observer=observer) for part in parts]
    if problems := [problem for part in found for problem in part.problems]:
        warn(unreadable_note(problems))
    return found


def _augmented(
    images: "tuple[LabelledImages, LabelledImages]",
    encoder: "Encoder",
    epochs: int,
    rates: tuple[float, ...],
) -> dict[str, Any]:
    import torch

    from ccrop_pipeline.probes import AugmentedSettings, augmented_probe, validation_split

    from .progress import Counter

    fitted, validation = validation_split(images[0])
    settings = AugmentedSettings(rates=rates or AugmentedSettings().rates, epochs=epochs)
    workers = 0 if torch.device(encoder.device).type == "cpu" else _cores()
    total = len(fitted.rows) * epochs + len(validation.rows) + len(images[1].rows)
    with Counter("probe", total) as observer:
        result = augmented_probe(
            fitted,
            validation,
            images[1],
            encoder,
            settings=settings,
            threads=_cores(),
            workers=workers,
            observer=observer,
        )
    return {**_record("augmented", result, len(validation.rows)), "epochs": epochs}


def _record(way: str, result: "LinearResult", validation_images: int) -> dict[str, Any]:
    if result.at_the_end:
        warn(
            f"the {result.setting} that was chosen, {result.chosen:g}, is at the end of "
            "those tried: another may be better."
        )
    return {
        way: result.accuracy,
        "validation": result.validation,
        "validation_images": validation_images,
        result.setting: result.chosen,
        "tried": [[value, accuracy] for value, accuracy in result.tried.items()],
    }


def _sentence(way: str, found: dict[str, Any], counts: dict[str, int], encoder: "Encoder") -> str:
    epoch = f" after epoch {encoder.epoch}" if encoder.epoch is not None else ""
    images = f"{counts['train']:,} train and {counts['test']:,} test images"
    images = f"{encoder.input_size} px, {images}"
    if encoder.layer:
        images = f"{encoder.layer}, {images}"
    if way == "knn":
        how = f"k={found['k']}, temperature={found['temperature']:g}"
        return f"kNN accuracy {found['knn']:.2%}{epoch} ({how}, {images})"
    setting = "penalty" if way == "linear" else "rate"
    chosen = (
        f"{setting} {found[setting]:.3g} chosen on {found['validation_images']:,} of the train "
        f"images: {found['validation']:.2%} there"
    )
    ways = {
        "linear": "whole images",
        "augmented": f"{counted(found.get('epochs', 0), 'epoch')} of random crops and flips",
    }
    return f"linear accuracy {found[way]:.2%}{epoch} ({ways[way]}, {images}; {chosen})"


def _cores() -> int:
    return os.cpu_count() or 1
