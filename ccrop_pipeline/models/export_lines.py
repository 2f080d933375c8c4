"""The lines of Python that use an exported backbone."""

from pathlib import Path

from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, Backbone
from ccrop_pipeline.models.export_detectron2 import detectron2_settings

_CIFAR = "-cifar"


def lines_for(backbone: Backbone, form: str, path: Path) -> list[str]:
    """Lines that build the network, load the file and leave a ``model`` that gives features.

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
        f"# model takes RGB in [0, 1], less {IMAGENET_MEAN}, divided by {IMAGENET_STD},",
        f"# (B, 3, H, W), and gives (B, {backbone.feature_dim})",
    ]


def _loading(path: Path) -> tuple[list[str], str]:
    if path.suffix == ".safetensors":
        return ["from safetensors.torch import load_file"], f"load_file({str(path)!r})"
    return ["import torch"], f'torch.load({str(path)!r}, map_location="cpu", weights_only=True)'


def _building(backbone: Backbone, form: str) -> tuple[list[str], list[str]]:
    name = backbone.name.removesuffix(_CIFAR)
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
