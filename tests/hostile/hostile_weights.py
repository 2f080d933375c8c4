"""Hostile checkpoints, pickles and weights, by seed; counted by verdict.

Pickles with code would make a file: none may appear. The long run:
`python tests/hostile/hostile_weights.py 1000`.
"""

import builtins
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from damaging import changed, dumped, garbled, written
from judging import WrongError, counted, judged, main
from timm.models.vision_transformer import VisionTransformer

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.export import export_backbone
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.own_checkpoints import OWN_KIND
from ccrop_pipeline.models.weight_files import read_weights, save_sealed
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint, load_checkpoint
from ccrop_pipeline.training.checkpoint import StartingWeights, load_newest, save_checkpoint

CANARY = "canary"
RECIPE = load_recipe("demo", ["image_size=24", "eval_size=48"])


@cache
def content() -> dict[str, Any]:
    """Return what a checkpoint of ours holds."""
    torch.manual_seed(0)
    method = build_method(RECIPE.method, RECIPE.backbone)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    found = Checkpoint(4, RECIPE, method.state_dict(), optimizer.state_dict())
    return {"kind": OWN_KIND, **vars(found), "recipe": RECIPE.to_dict()}


def sealed(value: Any) -> bytes:
    file = io.BytesIO()
    save_sealed(value, file)
    return file.getvalue()


@cache
def _checkpoint() -> bytes:
    return sealed(content())


@cache
def vit() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = VisionTransformer(32, 8, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    return module.state_dict()


@cache
def _exported() -> bytes:
    with TemporaryDirectory() as place:
        saved = Checkpoint(4, RECIPE, content()["method"], content()["optimizer"])
        save_checkpoint(Path(place, "checkpoint.pt"), saved)
        return export_backbone(place, Path(place, "a.safetensors")).path.read_bytes()


# Checkpoints


def _bytes(rng: Random, folder: Path) -> Path:
    """Two checkpoints of a run, the newest damaged, with or without the code that reads it."""
    data = _checkpoint()
    written(folder / "checkpoints" / "epoch-3.pt", data)
    damaged = bytearray(data)
    if rng.random() < 0.5:
        for _ in range(rng.choice([1, 1, 30])):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        damaged = bytearray(garbled(rng, data))
    return written(folder / "checkpoint.pt", bytes(damaged))


def _values(rng: Random, folder: Path) -> Path:
    """A checkpoint that was written with other values, its checksum right."""
    value: Any = {**content(), "method": dict(content()["method"])}
    for _ in range(rng.choice([1, 1, 2])):
        if rng.random() < 0.4:
            name = rng.choice([*value["method"]] if isinstance(value, dict) else [""])
            value = {**value, "method": {**value["method"], name: odd_tensor(rng)}}
        else:
            part = rng.choice(["epoch", "recipe", "method", "optimizer", "kind"])
            value = {**value, part: changed(rng, value[part])}
        if not isinstance(value.get("method"), dict):
            break
    return written(folder / "checkpoint.pt", sealed(value))


def odd_tensor(rng: Random) -> Any:
    stem = (64, 3, 8, 8)
    kinds: list[Callable[[], Any]] = [
        lambda: torch.zeros(0), lambda: torch.tensor(1.0), lambda: torch.zeros(1).expand(10**10),
        lambda: torch.zeros(1).expand(64, 10**9), lambda: torch.zeros(stem, dtype=torch.cfloat),
        lambda: torch.full(stem, torch.nan), lambda: torch.zeros(stem).to_sparse(),
        lambda: torch.zeros(stem, dtype=torch.int8), lambda: torch.zeros(3, 3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.qint8),
        lambda: torch.zeros(2, 2).T, lambda: torch.zeros(9, dtype=torch.bool), lambda: np.zeros(3),
        lambda: torch.zeros((1,) * 60), lambda: torch.zeros(64, 3, 8), lambda: None,
    ]  # fmt: skip
    return rng.choice(kinds)()


# Code


class Planted:
    """What makes a file as it is unpickled."""

    def __init__(self, path: Path, way: int) -> None:
        self.path, self.way = str(path), way

    def __reduce__(self) -> Any:
        shell = f"touch '{self.path}'"
        ways: list[Any] = [
            (builtins.open, (self.path, "w")), (os.system, (shell,)), (os.mkdir, (self.path,)),
            (builtins.exec, (f"open({self.path!r}, 'w')",)), (os.mknod, (self.path,)),
            (builtins.eval, (f"open({self.path!r}, 'w')",)),
            (Namespace, (), None, None, iter([(1, _Second(self.path))])),
            (torch.load, (_Second(self.path),)),
            (np.save, (self.path, 1)),
        ]  # fmt: skip
        return ways[self.way % len(ways)]


class _Second:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return builtins.open, (self.path, "w")


def _code(rng: Random, folder: Path) -> Path:
    """Pickles of every container that would run code, under every name that models have."""
    planted = Planted(folder / CANARY, rng.randrange(9))
    values: list[Any] = [
        planted, {"state_dict": planted}, {"model": {"a": torch.zeros(1), "b": planted}},
        {**content(), "optimizer": {"state": planted}}, {**content(), "epoch": planted},
        Namespace(a=planted), {planted.path: torch.zeros(1), "x": [planted]}, (planted, vit()),
    ]  # fmt: skip
    value = rng.choice(values)
    name = rng.choice(["checkpoint.pt", "a.pth", "a.bin", "a.ckpt", "a.tar", "a.safetensors", "a"])
    file = io.BytesIO()
    match rng.randrange(6):
        case 0:
            pickle.dump(value, file, rng.randrange(6))
        case 1:
            torch.save(value, file, _use_new_zipfile_serialization=False)
        case 2:
            torch.save(value, file, pickle_protocol=rng.choice([2, 4, 5]))
        case 3:
            save_sealed(value, file)
        case 4:  # an archive that calls itself a program
            inner = pickle.dumps(value, 2)
            with zipfile.ZipFile(file, "w") as archive:
                for member in (
                    "data.pkl",
                    "constants.pkl",
                    "archive_format",
                    "version",
                    "byteorder",
                ):
                    archive.writestr(f"a/{member}", inner if "pkl" in member else b"pt2")
            name = rng.choice([name, "a.pt2", "a.ts"])
        case _:  # an object array, in an archive of arrays
            with suppress(Exception):
                np.savez(file, a=np.array([value], object))
    data = file.getvalue()
    if rng.random() < 0.2:
        data = garbled(rng, data)
    return written(folder / name, data)


# Weights


def _weights(rng: Random, folder: Path) -> Path:
    """A state dict of a ViT, whose network is built after it, with other tensors or bytes."""
    state: dict[Any, Any] = dict(vit())
    for _ in range(rng.choice([0, 1, 1, 2])):
        name = rng.choice([*state])
        match rng.randrange(4):
            case 0:
                del state[name]
            case 1:
                more = [
                    "blocks.99999999.norm1.weight",
                    "layer1.0.conv1.weight",
                    "reg_token",
                    "\udcff",
                ]
                state[rng.choice([*more, "conv_proj.weight", 5, "", "dist_token", "x" * 9_999])] = (
                    odd_tensor(rng) if rng.random() < 0.5 else state[name]
                )
            case 2:
                state[name] = odd_tensor(rng)
            case _:
                shape = [rng.choice([side, 0, 1, 7]) for side in state[name].shape]
                state[name] = torch.zeros(shape)
    file = io.BytesIO()
    held: Any = rng.choice([state, {"state_dict": state}, {"model": state, "epoch": 10**30}])
    with suppress(Exception):  # a name that cannot be written, or the like
        torch.save(held, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    data = file.getvalue()
    return written(folder / "a.pth", garbled(rng, data) if rng.random() < 0.3 else data)


def _safetensors(rng: Random, folder: Path) -> Path:
    """An exported file with another header, length or bytes."""
    data = _exported()
    size = int.from_bytes(data[:8], "little")
    header: Any = json.loads(data[8 : 8 + size])
    match rng.randrange(4):
        case 0:
            return written(folder / "a.safetensors", garbled(rng, data))
        case 1:
            at = rng.randrange(8 + size, len(data))
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            return written(folder / "a.safetensors", flipped)
        case 2:
            length = rng.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
            return written(folder / "a.safetensors", struct.pack("<Q", length) + data[8:])
    for _ in range(rng.choice([1, 1, 2])):
        header = changed(rng, header)
        if isinstance(header, dict) and rng.random() < 0.3:
            header.pop("__metadata__", None)
    text = dumped(header)
    return written(folder / "a.safetensors", struct.pack("<Q", len(text)) + text + data[8 + size :])


def _expect_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Expect the tensors that a slow reader of safetensors has (its README has the format)."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    kinds = {"F32": np.float32, "I64": np.int64, "F16": np.float16, "I32": np.int32}
    for name, value in state.items():
        start, end = header[name]["data_offsets"]
        found = np.frombuffer(data[8 + size :][start:end], kinds[header[name]["dtype"]])
        if not np.array_equal(found.reshape(header[name]["shape"]), value.numpy(), equal_nan=True):
            raise WrongError(f"other weights of {name!r}")


# Judging


def _read_checkpoint(path: Path) -> None:
    """Read a checkpoint as a run and as a model; the one before it serves where it is damaged."""
    intact = True
    try:
        loaded = load_checkpoint(path)
    except CcropError:
        intact = False
    newest = load_newest(path.parent)
    before = (path.parent / "checkpoints" / "epoch-3.pt").is_file()
    if before and (newest is None or bool(newest[1]) == intact):
        raise WrongError("the newest that is intact is another")
    if before:
        _expect_the_same(newest[0].method, content()["method"])  # type: ignore[index]
    found = StartingWeights(path).fingerprint
    loaded = load_checkpoint(path)
    if before and found:
        _expect_the_same(loaded.method, content()["method"])
    encoder = open_encoder(path)
    if encoder.info.epoch != loaded.epoch:
        raise WrongError("another epoch")


def _expect_the_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    equal = [torch.equal(found[name], value) for name, value in expected.items()]
    if len(found) != len(expected) or not all(equal):
        raise WrongError("other weights")


def _read_model(path: Path) -> None:
    """Open a file in every way that takes weights; refused is what each refuses."""
    with suppress(CcropError):
        open_encoder("timm:vit_tiny_patch16_224", weights=path, partial=True)
    with suppress(CcropError):
        load_checkpoint(path)
    open_encoder(path)


def _read_safetensors(path: Path) -> None:
    _expect_weights(path, read_weights(path, unsafe=False))
    with suppress(CcropError):  # our small network is none of those that are told by names
        open_encoder(path)


KINDS: dict[str, tuple[Callable[[Random, Path], Path], Callable[[Path], None]]] = {
    "checkpoints, their bytes": (_bytes, _read_checkpoint),
    "checkpoints, their values": (_values, _read_checkpoint),
    "pickles with code": (_code, _read_model),
    "weights": (_weights, _read_model),
    "safetensors": (_safetensors, _read_safetensors),
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken`, `refused` by a message that names the file; else what went wrong."""
    make, read = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about quantized tensors
        path = make(Random(f"{kind} {seed}"), folder / "made")
    (folder / CANARY).unlink(missing_ok=True)

    def use() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about old forms
            read(path)

    said = judged(use, [path.name])
    if any(file.name.startswith(CANARY) for file in folder.rglob("*")):
        return "code was run"
    return said


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
