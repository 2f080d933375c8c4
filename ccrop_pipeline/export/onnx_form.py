"""The ONNX form: from images to pooled features, for programs without torch."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccrop_pipeline.errors import CcropError, ModelError, SettingError, cause
from ccrop_pipeline.localize import Encoder, weights_sha256
from ccrop_pipeline.localize.encoder import evaluation, probe_images

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18  # of 2022; every newer program reads it
_MOST_BYTES = 1 << 31  # of a file of protocol buffers
_BATCHES = (1, 2, 8)  # images that outputs are compared on at a time
_TOLERANCE = 1e-4  # of the greatest output; other programs add up in another order
_IMAGES, _FEATURES = "images", "features"


def expect_onnx() -> None:
    """Refuse to begin without the packages of the extra `onnx`.

    Raises:
        CcropError: If one is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise CcropError(
            f"the form onnx needs {' and '.join(missing)}. Run `pip install {' '.join(missing)}`."
        )


def onnx_model(encoder: Encoder) -> Any:
    """Return an ONNX model that gives the encoder's pooled features.

    Its input `images` is float32 (B, 3, S, S), normalised as the encoder's are, of any B; its
    output `features` float32 (B, C). What a reader must know of it is in its `metadata_props`.

    Args:
        encoder: Of precision fp32; the layers behind its own are left out.

    Raises:
        ModelError: If the network cannot be written as ONNX.
        SettingError: If it is too large for a file.
    """
    size = sum(weight.nbytes for weight in encoder.module.state_dict().values())
    if size >= _MOST_BYTES:
        raise SettingError(f"the network has {size:,} bytes, and an ONNX file holds 2 GiB at most.")
    example = torch.rand(2, 3, encoder.input_size, encoder.input_size, device=encoder.device)
    with evaluation(encoder.module), _quietly():
        try:
            program = torch.onnx.export(
                _Pooled(encoder),
                (example,),
                dynamo=True,
                input_names=[_IMAGES],
                output_names=[_FEATURES],
                dynamic_shapes={_IMAGES: {0: torch.export.Dim("batch")}},
                opset_version=_OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch raises nearly anything, and has no common class for it
            raise ModelError(
                f"{encoder.name or 'the network'} cannot be written as ONNX: torch.onnx.export "
                f"says: {cause(error.__cause__ or error)}."
            ) from error
    assert program is not None
    model: Any = program.model_proto
    _forget_where_it_was_made(model)
    for name, value in _about(encoder).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    return model


def difference_of(path: Path, encoder: Encoder) -> float:
    """Run a file by onnxruntime, on batches of several sizes.

    Returns:
        The greatest difference from the encoder's own features, as a share of the greatest one.

    Raises:
        CcropError: If it is more than rounding.
    """
    import onnxruntime

    images = probe_images(encoder.input_size)
    expected = encoder.pooled(images).cpu().numpy()
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (encoder.mean, encoder.std))
    seen = (images.numpy().astype(np.float32) / 255 - mean) / std
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    greatest = 0.0
    for count in _BATCHES:
        (found,) = session.run([_FEATURES], {_IMAGES: seen[:count]})
        greatest = max(greatest, float(np.abs(found - expected[:count]).max()))
    difference = greatest / float(np.abs(expected).max())
    if not difference <= _TOLERANCE:
        raise CcropError(
            f"onnxruntime gives other features for {path} than torch for the network: they differ "
            f"by {difference:.1e} of the greatest. Nothing was written."
        )
    return difference


def onnx_lines(encoder: Encoder, path: Path) -> list[str]:
    """Return lines that open a file and leave a `model` of features."""
    size = encoder.input_size
    channels = encoder.pooled(probe_images(size)[:1]).shape[1]
    return [
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        "",
        "",
        "def model(images):",
        f'    return session.run(["{_FEATURES}"], {{"{_IMAGES}": images}})[0]',
        "",
        "",
        f"# model takes RGB in [0, 1], less {encoder.mean},",
        f"# divided by {encoder.std}, as float32 (B, 3, {size}, {size}), and gives (B, {channels})",
    ]


class _Pooled(nn.Module):
    """The encoder's pooled features of normalised images, as torch.export can follow them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.module
        self._layer = encoder.layer
        self._cells = {"bchw": (2, 3), "bhwc": (1, 2), "tokens": (1,)}[encoder.layout]
        self._prefix = encoder.prefix_tokens if encoder.layout == "tokens" else 0
        self._pools = encoder.pools

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, C)."""
        if self._pools:
            features: Tensor = self.network(images)
            return features
        kept: list[Tensor] = []
        layer = self.network.get_submodule(self._layer)
        handle = layer.register_forward_hook(lambda _module, _args, output: kept.append(output))
        try:
            self.network(images)
        finally:
            handle.remove()
        output = kept[-1][:, self._prefix :] if self._prefix else kept[-1]
        return output.mean(self._cells)


def _about(encoder: Encoder) -> dict[str, Any]:
    return {
        "backbone": encoder.name,
        "layer": encoder.layer,
        **({} if encoder.epoch is None else {"epoch": encoder.epoch}),
        "weights_sha256": weights_sha256(encoder.module),
        "input_size": encoder.input_size,
        "mean": encoder.mean,
        "std": encoder.std,
    }


def _forget_where_it_was_made(model: Any) -> None:
    """Remove traces of the source code from a model: they name paths of this machine."""
    parts = [model.graph, *model.functions]
    for part in [*parts, *(node for graph in parts for node in graph.node)]:
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for weight in model.graph.initializer:
        del weight.metadata_props[:]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what torch says of its own ways while it writes ONNX."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
