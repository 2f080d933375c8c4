"""`ccrop probe`."""

import json
import os
from pathlib import Path

import click


@click.command("probe")
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.argument("train_source")
@click.argument("test_source")
@click.option("--k", type=click.IntRange(1), default=200, show_default=True, help="Neighbours.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Votes weigh exp(similarity / temperature).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def probe(
    run: Path,
    train_source: str,
    test_source: str,
    k: int,
    temperature: float,
    device: str,
    as_json: bool,
) -> None:
    """Measure the encoder of RUN (or of a checkpoint) with a kNN probe.

    Images of TEST_SOURCE take the class that their nearest neighbours in TRAIN_SOURCE vote for.

    \b
    Example:
      ccrop probe runs/first data/photos data/test
    """
    from ccrop_pipeline.train import ProbeSettings, load_checkpoint
    from ccrop_pipeline.train.probe import embed, knn_accuracy, labelled

    from .opening import open_any, open_device

    checkpoint = load_checkpoint(run)
    encoder = checkpoint.encoder(open_device(device))
    settings = ProbeSettings(k=k, temperature=temperature)
    bank, queries = (
        embed(labelled(source.index(), source.location), encoder, os.cpu_count() or 1)
        for source in (open_any(train_source), open_any(test_source))
    )
    accuracy = knn_accuracy(bank, queries, settings)
    if as_json:
        result = {"knn": accuracy, "k": k, "temperature": temperature, "epoch": checkpoint.epoch}
        click.echo(json.dumps({**result, "train": len(bank.labels), "test": len(queries.labels)}))
    else:
        click.echo(
            f"kNN accuracy {accuracy:.2%} after epoch {checkpoint.epoch} (k={k}, "
            f"temperature={temperature:g}, {len(bank.labels):,} train and "
            f"{len(queries.labels):,} test images)"
        )
