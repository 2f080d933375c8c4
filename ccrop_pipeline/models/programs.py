"""Networks that bring their own code: TorchScript, torch.export, and functions in a file."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.models.network import Network
from ccrop_pipeline.models.weight_files import load_torchscript, unreadable_program

_USUAL_SIZE = 224


def torchscript_network(path: Path, input_size: int | None) -> Network:
    """Load a module saved by `torch.jit.save`. Only its own output can be read, no layer inside.

    Raises:
        ModelError: If the file cannot be loaded.
    """
    program = load_torchscript(path)
    arguments = program.forward.schema.arguments if hasattr(program, "forward") else []
    needed = [argument.name for argument in arguments[1:] if not argument.has_default_value()]
    if len(needed) != 1:
        raise ModelError(
            f"{path} is a program that takes {', '.join(needed) or 'nothing'}, not images alone. "
            "To use its weights in a network that does, name the network (timm:NAME) and give the "
            "file as `weights`, with `unsafe`."
        )
    return Network(_Whole(program), f"torchscript:{path.name}", input_size or _USUAL_SIZE)


class _Whole(nn.Module):
    """A TorchScript module, which takes no hooks, inside a module that does."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Any:
        return self.program(images)


def exported_network(
    path: Path, input_size: int | None, device: torch.device | str, *, unsafe: bool
) -> Network:
    """Load a program saved by `torch.export.save`, with its modules under their names.

    Args:
        path: The file.
        input_size: Side of the images; by default that of the example it was exported with.
        device: Where it will run; programs hold devices inside, which are changed.
        unsafe: Whether the file may run code of its own while it is read. torch unpickles example
            inputs, constants and weights, and evaluates expressions of the program.

    Raises:
        ModelError: If the file is not trusted, cannot be loaded, or takes one batch size only.
    """
    if not unsafe:
        raise ModelError(
            f"{path} is a program of torch.export, which torch reads by unpickling: the file can "
            "run any code with your rights. If you trust where it comes from, set `unsafe`; or "
            "save the state dict alone, and name the network."
        )
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise unreadable_program(path, "torch.export") from error
    shape = _input_shape(program, path)
    if isinstance(shape[0], int):
        raise ModelError(
            f"{path} takes batches of {shape[0]} images only. Export it again with the first "
            "dimension free: torch.export.export(model, (images,), dynamic_shapes=({0: "
            "torch.export.Dim.AUTO},)), with an example of two images or more."
        )
    side = shape[2]
    if input_size is not None and isinstance(side, int) and input_size != side:
        raise ModelError(f"{path} takes images of {side} pixels only, not {input_size}.")
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    size = input_size or (side if isinstance(side, int) else _USUAL_SIZE)
    return Network(torch.export.unflatten(program), f"export:{path.name}", size)


def factory_network(spec: str, input_size: int | None) -> Network | Encoder:
    """Call a function in a Python file for a network; naming the file is consent to run it.

    Args:
        spec: `path/to/module.py:function`.
        input_size: Side of the images for a module; 224 by default.

    Raises:
        ModelError: If there is no such file or function, or it returns something else.
    """
    file, _, name = spec.rpartition(":")
    path = local_path(file)
    if not path.is_file():
        raise ModelError(f"there is no Python file {path} to take {name!r} from.")
    module_spec = importlib.util.spec_from_file_location(f"_ccrop_model_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickles look there
    sys.path.insert(0, str(path.parent.resolve()))  # so that it may import its neighbours
    try:
        module_spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ModelError(f"{path} has no function {name!r}. It has {', '.join(known) or 'none'}.")
    made = factory()
    if isinstance(made, Encoder):
        return made
    if isinstance(made, nn.Module):
        return Network(made, f"{path.name}:{name}", input_size or _USUAL_SIZE)
    raise ModelError(
        f"{spec} returned {type(made).__name__}; it must return a torch.nn.Module or a "
        "ccrop_pipeline.localize.Encoder."
    )


def _input_shape(program: torch.export.ExportedProgram, path: Path) -> list[Any]:
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [list(nodes[str(name)].meta["val"].shape) for name in inputs if str(name) in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelError(f"{path} must take one batch of images (B, 3, H, W), not {shapes}.")
    return shapes[0]
