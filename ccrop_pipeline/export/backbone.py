"""Writing the backbone of a run for other programs, and checking what was written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import output_file
from ccrop_pipeline.errors import CcropError, ModelError, SettingError
from ccrop_pipeline.export.detectron2 import (
    detectron2_file,
    detectron2_name,
    detectron2_settings,
    detectron2_state,
)
from ccrop_pipeline.export.onnx_form import difference_of, expect_onnx, onnx_lines, onnx_model
from ccrop_pipeline.localize import Backbone, Encoder, build_backbone, state_sha256
from ccrop_pipeline.models import open_encoder, read_own
from ccrop_pipeline.models.network import import_timm
from ccrop_pipeline.models.own_checkpoints import (
    Which,
    expect_own,
    own_backbone,
    own_encoder,
    within,
)
from ccrop_pipeline.models.trainable import open_backbone
from ccrop_pipeline.models.weight_files import DIGEST, read_weights, save_sealed
from ccrop_pipeline.recipes import Recipe

ExportForm = Literal["torchvision", "timm", "safetensors", "detectron2", "onnx"]

# Of files of weights; another, such as .h5, promises another format.
_ENDINGS = ("", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")
_FORM_OF: Mapping[str, ExportForm] = {".safetensors": "safetensors", ".onnx": "onnx"}
_SIDE = 64  # of the images that outputs are compared on
_TOLERANCE = 1e-6  # of the greatest output
_CIFAR = "-cifar"  # behind the names of networks with the stem for small images


@dataclass(frozen=True)
class Exported:
    """A backbone that was written and read again.

    Attributes:
        path: The file.
        form: Form of its names.
        backbone: Name of the network.
        epoch: Epochs it was trained, if known.
        weights: Number of tensors in the file.
        difference: Greatest difference between the outputs of the backbone and of the network
            that was loaded from the file, as a share of the greatest output; None for detectron2,
            where names and tensors are compared.
        lines: Lines of Python that use the file.
    """

    path: Path
    form: str
    backbone: str
    epoch: int | None
    weights: int
    difference: float | None
    lines: tuple[str, ...]


def export_backbone(
    run: Encoder | str | Path,
    out: str | Path,
    *,
    form: ExportForm | None = None,
    encoder: Which = "online",
    input_size: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a backbone as a state dict or as ONNX, read it by what it is for and compare.

    The file appears at `out` only when what was read from it gives the same outputs. One that is
    there with the very same content is left as it is.

    Args:
        run: A run of `ccrop train` or one of its checkpoints; for the form onnx, also an encoder
            or whatever `open_encoder` opens.
        out: The file. With the ending `.safetensors` it is of that format, else of
            `torch.save`, or for the form onnx of ONNX.
        form: `torchvision`, `timm` or `detectron2`, by the names of the weights and the
            network that is built to check them; `safetensors` is `torchvision` in a safetensors
            file, and takes `small` too; `onnx` is a program from normalised images to pooled
            features. None: `safetensors` or `onnx` for that ending, else `torchvision`.
        encoder: The online encoder, or the momentum encoder of a method that has one.
        input_size: For the form onnx, side of the images in pixels; None: what the model expects.
        overwrite: Whether a file at `out` is replaced.

    Raises:
        CcropError: If there is no such run or encoder, the backbone has no such form, the file is
            there already, or the check failed.
    """
    out = local_path(out)
    given, form = form, form or _FORM_OF.get(out.suffix, "torchvision")
    if form not in get_args(ExportForm):
        raise SettingError(f"form is {form!r}; it must be one of {get_args(ExportForm)}.")
    _check_target(out, form)
    if form == "onnx":
        return _export_onnx(run, out, encoder, input_size, overwrite=overwrite)
    if input_size is not None or isinstance(run, Encoder):
        raise SettingError(f"the form {form} is of a run, and of any `input_size`: give none.")
    content = expect_own(run)
    with within(local_path(run)):
        recipe = Recipe.from_dict(content["recipe"])
        backbone = own_backbone(recipe, content["method"], encoder).eval()
    epoch: int = content["epoch"]
    if backbone.lines and given is None and form != "safetensors":
        form = "timm" if backbone.name.startswith("timm:") else "torchvision"
    _check_form(backbone, form)
    state = detectron2_state(backbone) if form == "detectron2" else backbone.whole.state_dict()
    state = {name: value.contiguous() for name, value in state.items()}
    file = detectron2_file(state) if form == "detectron2" else state
    about = {"backbone": backbone.name, "epoch": str(epoch)}
    with output_file(out, overwrite=overwrite) as aside:
        aside.write_bytes(_bytes_of(file, out.suffix, about))
        difference = _check(aside, out.suffix, backbone, form, recipe)
    lines = tuple(_lines_for(backbone, form, out))
    return Exported(out, form, backbone.name, epoch, len(state), difference, lines)


def _export_onnx(
    model: Encoder | str | Path, out: Path, which: Which, input_size: int | None, *, overwrite: bool
) -> Exported:
    expect_onnx()
    encoder = _encoder(model, which)
    if input_size is not None:
        encoder = replace(encoder, input_size=input_size)
    program = onnx_model(encoder)
    with output_file(out, overwrite=overwrite) as aside:
        aside.write_bytes(program.SerializeToString(deterministic=True))
        difference = difference_of(aside, encoder)
    lines, weights = tuple(onnx_lines(encoder, out)), len(program.graph.initializer)
    return Exported(out, "onnx", encoder.name, encoder.epoch, weights, difference, lines)


def _encoder(model: Encoder | str | Path, which: Which) -> Encoder:
    if isinstance(model, Encoder):
        return model
    content = read_own(model)
    if content is None:
        if which != "online":
            raise ModelError(f"{model} is no run of `ccrop train`: it has no {which} encoder.")
        return open_encoder(model)
    with within(local_path(model)):
        return own_encoder(content, which=which)


def _check_target(out: Path, form: str) -> None:
    if form == "onnx" and out.suffix != ".onnx":
        raise SettingError(f"{out} is to be of the form onnx; let its name end in .onnx.")
    if form != "onnx" and out.suffix not in _ENDINGS:
        raise SettingError(
            f"{out} would hold weights by name, and no {out.suffix} file: let its name end in .pth "
            "or .safetensors."
        )
    if form == "safetensors" and out.suffix != ".safetensors":
        raise SettingError(f"{out} is to be of the form safetensors; let its name end in it.")
    if form == "detectron2" and out.suffix != ".pth":
        raise SettingError(f"detectron2 tells files by their ending: {out} must end in .pth.")
    if out.is_dir():
        raise CcropError(f"{out} is a folder. Name the file to write, such as {out}/backbone.pth.")


def _check_form(backbone: Backbone, form: str) -> None:
    library = backbone.name.partition(":")[0]
    if backbone.lines and form not in (library, "safetensors"):
        raise SettingError(
            f"the backbone {backbone.name} is a network of {library}, and has no form {form}: give "
            f"the form {library}, or leave it out."
        )
    if backbone.name == "small" and form in ("torchvision", "timm"):
        raise SettingError(
            f"{form} has no network like the backbone 'small', which is our own. Give OUT the "
            "ending .safetensors and no other form: it is then loaded into `build_backbone`."
        )


def _bytes_of(content: dict[str, Any], suffix: str, about: dict[str, str]) -> bytes:
    if suffix == ".safetensors":
        from safetensors.torch import save

        about = {"format": "pt", DIGEST: state_sha256(content), **about}
        return _sorted_metadata(save(content, metadata=about))
    file = BytesIO()
    save_sealed(content, file)
    return file.getvalue()


def _sorted_metadata(file: bytes) -> bytes:
    """Put the metadata of a safetensors file in order: its library writes them in any.

    The file is the length of its header (8 bytes, little-endian), the header as JSON, and the
    tensors (https://github.com/huggingface/safetensors#format).
    """
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return file[:8] + text.ljust(size) + file[8 + size :]


def _check(path: Path, suffix: str, backbone: Backbone, form: str, recipe: Recipe) -> float | None:
    """Read the file back and compare; return the difference of outputs where there are any."""
    from safetensors.torch import load_file

    state: Any = load_file(path) if suffix == ".safetensors" else read_weights(path, unsafe=False)
    if form == "detectron2":
        own = backbone.state_dict()
        names = {detectron2_name(name): name for name in own}
        weights: dict[str, Tensor] = state["model"]
        if not all(torch.equal(value, own[names[name]]) for name, value in weights.items()):
            raise CcropError(f"what was written to {path} came back with other weights.")
        return None
    if backbone.lines:
        network = open_backbone(recipe.backbone, recipe.sizes()).whole
    else:
        network = _fresh(backbone.name, form)
    network.load_state_dict(state)
    side = recipe.image_size if backbone.lines else _SIDE
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = backbone.whole(images), network.eval()(images)
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= _TOLERANCE:
        raise CcropError(
            f"the {form} network that was loaded from {path} gives other outputs than the "
            f"backbone: they differ by {difference:.1e} of the greatest. Nothing was written."
        )
    return difference


def _fresh(name: str, form: str) -> nn.Module:
    """Return the network that the file is for, with random weights and without a classifier."""
    from torchvision import models

    plain = name.removesuffix(_CIFAR)
    if name == "small":
        return build_backbone(name)
    network: nn.Module
    if form == "timm":
        network = import_timm().create_model(plain, pretrained=False, num_classes=0)
    else:
        network = models.get_model(plain, weights=None)
        network.fc = nn.Identity()
    if name != plain:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


def _lines_for(backbone: Backbone, form: str, path: Path) -> list[str]:
    """Return lines that build the network, load the file and leave a `model` of features.

    Args:
        backbone: What was exported.
        form: As for `export_backbone`.
        path: The file.
    """
    if form == "detectron2":
        settings = detectron2_settings(backbone)
        return [
            "from detectron2.config import get_cfg",
            "",
            "cfg = get_cfg()  # and merge_from_file(...) of the detector",
            f"cfg.MODEL.WEIGHTS = {str(path)!r}",
            *(f"cfg.{name} = {value!r}" for name, value in settings),
        ]
    imports, load = _loading(path)
    more, build = _building(backbone, form)
    return [
        *sorted({*imports, *more}, key=lambda line: (line.startswith("from"), line)),
        "",
        *build,
        f"model.load_state_dict({load})",
        "model.eval()",
        f"# model takes RGB in [0, 1], less {backbone.mean},",
        f"# divided by {backbone.std}, as (B, 3, H, W), and gives (B, {backbone.feature_dim})",
    ]


def _loading(path: Path) -> tuple[list[str], str]:
    if path.suffix == ".safetensors":
        return ["from safetensors.torch import load_file"], f"load_file({str(path)!r})"
    return ["import torch"], f'torch.load({str(path)!r}, map_location="cpu", weights_only=True)'


def _building(backbone: Backbone, form: str) -> tuple[list[str], list[str]]:
    name = backbone.name.removesuffix(_CIFAR)
    if backbone.lines:
        libraries = ["timm"] if name.startswith("timm:") else ["torch", "torchvision"]
        return [f"import {library}" for library in libraries], [*backbone.lines]
    if name == "small":
        return (
            ["from ccrop_pipeline.localize import build_backbone"],
            ['model = build_backbone("small")'],
        )
    if form == "timm":
        imports = ["import timm"]
        build = [f'model = timm.create_model("{name}", pretrained=False, num_classes=0)']
    else:
        imports = ["import torch", "import torchvision"]
        build = [
            f'model = torchvision.models.get_model("{name}", weights=None)',
            "model.fc = torch.nn.Identity()",
        ]
    if backbone.name != name:
        imports.append("import torch")
        build += [  # the stem for small images
            "model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)",
            "model.maxpool = torch.nn.Identity()",
        ]
    return imports, build
