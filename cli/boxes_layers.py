"""`ccrop boxes layers`."""

from typing import Any

import click

from .model_options import expect_model, model_options, open_model
from .printing import note, print_json, print_line


@click.command("layers")
@click.argument("model")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def layers(model: str, as_json: bool, **options: Any) -> None:
    """List the layers of MODEL that give feature maps, and mark the one that is taken.

    MODEL is what `ccrop boxes compute --model` takes. For each layer: channels, rows x columns
    of the grid at the input size, and whether features may be negative. `--map sum` is for
    features that are not: signed ones cancel out.

    \b
    Example:
      ccrop boxes layers runs/first
    """
    expect_model(model, options["weights"])
    from dataclasses import asdict

    from ccrop_pipeline.models import layers_of

    encoder = open_model(model, **options, say=note)
    found = layers_of(encoder)
    if as_json:
        layers = [asdict(layer) for layer in found]
        print_json({"model": encoder.name, "input_size": encoder.input_size, "layers": layers})
        return
    print_line(f"{encoder.name}, {encoder.input_size} px")
    width = max([len(layer.name) for layer in found] + [5])
    print_line(f"  {'layer':<{width}}  channels  grid     features")
    for layer in found:
        mark = "*" if layer.name == encoder.layer else " "
        grid = f"{layer.grid[0]}x{layer.grid[1]}"
        sign = "signed" if layer.signed else "not negative"
        print_line(f"{mark} {layer.name:<{width}}  {layer.channels:>8}  {grid:<7}  {sign}")
