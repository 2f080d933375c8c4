"""The options that say which model to read, shared by the commands that read one."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.errors import ModelError, SettingError

from .printing import note

if TYPE_CHECKING:
    import torch

    from ccrop_pipeline.localize import Encoder

Command = TypeVar("Command", bound=Callable[..., Any])


_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu|hpu|mtia|xla|maia|privateuseone)(:\d+)?")


def _known(_context: click.Context, _option: click.Parameter, device: str) -> str:
    # As far as that can be told without torch.
    if not _DEVICE.fullmatch(device):
        raise click.BadParameter(f"{device!r} is none: give auto, cpu, cuda, cuda:1, ...")
    return device


def _colours(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> list[float] | None:
    try:
        return None if value is None else [float(part) for part in re.split(r"[,\s]+", value)]
    except ValueError:
        raise click.BadParameter(f"{value!r}: give one number, or three as 0.5,0.4,0.3.") from None


device_option = click.option(
    "--device",
    callback=_known,
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:1, ...",
)

MODEL_HELP = """\
What reads the images: a run or checkpoint of `ccrop train`; a checkpoint of MoCo, MoCo v3, SimCLR,
SimSiam, BYOL, DINO, lightly, solo-learn, VISSL or torchvision; a TorchScript or torch.export file;
torchvision:NAME; timm:NAME; module.py:function.  See docs/models.md."""

_OPTIONS = (
    click.option(
        "--weights",
        metavar="FILE",
        help="With torchvision:NAME and timm:NAME: a file of weights, or `random` for trials.  "
        "[default: the library's pretrained ones]",
    ),
    click.option(
        "--layer",
        metavar="LAYER",
        help="Layer whose features are taken; `ccrop boxes layers` lists them.  "
        "[default: the last feature map before the pooling, or the last block of a transformer]",
    ),
    click.option(
        "--input-size",
        type=click.IntRange(8, 4096),
        help="Side in pixels of the images that the model sees.  [default: what it expects]",
    ),
    *(
        click.option(
            f"--{name}",
            callback=_colours,
            metavar="NUMBER[,G,B]",
            help=f"{what} of pixels from 0 to 1 that the model was trained with, one number or "
            "three for R, G, B.  [default: what the model is known or assumed to expect]",
        )
        for name, what in (("mean", "Mean"), ("std", "Standard deviation"))
    ),
    click.option(
        "--unsafe",
        is_flag=True,
        help="Let a checkpoint run code of its own while it is read. Only for files you trust.",
    ),
    click.option("--partial", is_flag=True, help="Accept weights that fit the model only in part."),
    device_option,
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Precision of the forward pass; auto is bf16 on a GPU that has it, else fp32.",
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the model: a minute at the start, then faster on a GPU.",
    ),
)

# Names of the arguments that `open_model` takes of a command with these options.
MODEL_OPTIONS = (
    "model",
    "weights",
    "layer",
    "input_size",
    "mean",
    "std",
    "unsafe",
    "partial",
    "device",
    "precision",
    "compiled",
)


def model_options(command: Command) -> Command:
    """Add the options that say how to open a model, all but `--model` itself."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def expect_model(model: str, weights: str | None = None) -> None:
    """Refuse what names no model, and files that are not there, before anything slow begins.

    Args:
        model: As `--model` has it.
        weights: As `--weights` has it.

    Raises:
        ModelError: If there is no such network, file or folder, or no checkpoint in the folder.
        SettingError: If weights are given for a model that brings its own.
    """
    library, _, name = model.partition(":")
    if library in LIBRARIES:
        _expect_network(library, name)
        if weights not in (None, "random") and not local_path(weights).exists():
            raise ModelError(f"there is no file of weights at {weights}.")
        return
    file, _, name = model.rpartition(":")
    if file.endswith(".py"):
        if not local_path(file).is_file():
            raise ModelError(f"there is no Python file {file} to take {name!r} from.")
    else:
        _expect_path(model)
    if weights is not None:
        raise SettingError(
            f"`weights` goes with torchvision:NAME and timm:NAME; {model} brings its own."
        )


def _expect_path(model: str) -> None:
    path = local_path(model)
    if not path.exists():
        networks = [
            f"{library}:{name}"
            for library in LIBRARIES
            for name in _REGISTERED.findall(_source(library))
            if _bare(name) == _bare(model)
        ]
        meant = f"Did you mean {' or '.join(networks)}? " if networks else ""
        raise ModelError(
            f"there is no model {model}: no such file or folder, and it starts with neither "
            f"torchvision: nor timm:. {meant}docs/models.md lists what a model can be."
        )
    if ":" in model and not path.exists():
        return
    kinds = ("checkpoint*", "*.safetensors*")
    if path.is_dir() and not any(file for kind in kinds for file in path.glob(kind)):
        raise ModelError(
            f"the folder {model} holds no checkpoint. Give the folder of a run that `ccrop train` "
            "has trained for an epoch or more, one of its checkpoints, or a folder of safetensors."
        )
    from ccrop_pipeline.models.sealed_files import expect_whole

    expect_whole(path)


LIBRARIES = ("torchvision", "timm")
# How both libraries enter a function that builds a network into the list of their names.
_REGISTERED = re.compile(r"@register_model[^\n]*\n(?:@[^\n]*\n)*def (\w+)")


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _source(library: str) -> str:
    """Return the source of a library's models: importing it takes seconds."""
    found = find_spec(library)
    places = (found and found.submodule_search_locations) or ()
    files = [file for place in places for file in Path(place, "models").glob("*.py")]
    return "".join(file.read_text("utf-8", "replace") for file in files)


def _expect_network(library: str, name: str) -> None:
    if find_spec(library) is None:
        raise ModelError(f"{library} is not installed: pip install {library}.")
    source = _source(library)
    known = _REGISTERED.findall(source)
    plain = name.removesuffix("-cifar") if library == "torchvision" else name.partition(".")[0]
    # Of a library that is not what it was, or of a name with a place, the library itself decides.
    if not known or "/" in name or plain in known or f"'{plain}'" in source:
        return
    close = did_you_mean(name, known, most=3)
    raise ModelError(f"{library} has no network {name!r}{close}; it has {len(known)} others.")


def open_model(
    model: str,
    weights: str | None,
    layer: str | None,
    input_size: int | None,
    mean: list[float] | None,
    std: list[float] | None,
    unsafe: bool,
    partial: bool,
    device: str,
    precision: str,
    compiled: bool,
    say: Callable[[str], None],
) -> "Encoder":
    """Return the encoder that the options name; what its file lacks or has too much is said.

    Raises:
        CcropError: If it cannot be opened.
    """
    from ccrop_pipeline.localize import open_device
    from ccrop_pipeline.models import open_encoder

    place = open_device(device)
    if precision == "auto":
        precision = precision_for(place)
    return open_encoder(
        model,
        weights=weights,
        layer=layer,
        input_size=input_size,
        mean=mean,
        std=std,
        unsafe=unsafe,
        partial=partial,
        device=place,
        precision=cast(Literal["fp32", "bf16", "fp16"], precision),
        compile=compiled,
        say=lambda line: say(re.sub(r"`(mean|std)`", r"--\1", line)),
    )


def precision_for(device: "torch.device") -> Literal["fp32", "bf16"]:
    """Return what `--precision auto` stands for."""
    import torch

    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def open_for_features(model: str, options: dict[str, Any]) -> "Encoder":
    """Return the encoder that the options name, at the layer that is the last at its usual size.

    Boxes need a map of more than one cell and take an earlier layer of a network whose images are
    small; features are better off with the last, whatever is left of its map.
    """
    from dataclasses import replace

    encoder = open_model(model, **options, say=note)
    if options["layer"] is not None or options["input_size"] is None:
        return encoder
    usual = open_model(model, **{**options, "input_size": None}, say=lambda _line: None)
    return replace(
        encoder, layer=usual.layer, layout=usual.layout, prefix_tokens=usual.prefix_tokens
    )
