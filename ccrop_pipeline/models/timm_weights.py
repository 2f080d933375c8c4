"""Weights of other projects under timm's names, by the conversion that timm has for them.

timm converts what the projects publish whose networks it has (CLIP, DINOv3, EVA, ...) when it
fetches weights of its own; here files of anyone get the same.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError, few
from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.fitting import best_match, copies_by_rank, shapes_of
from ccrop_pipeline.models.network import import_timm

Convert = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Any]]


@dataclass(frozen=True)
class Converted:
    """The weights of a file under the names of a network of timm.

    Attributes:
        checkpoint: The weights, converted.
        left_out: Names in the file that the conversion dropped.
        lost: Those of them that belong to layers whose other weights were kept, and are not 0.
    """

    checkpoint: Checkpoint
    left_out: list[str]
    lost: list[str]

    def account(self, name: str, *, partial: bool, say: Callable[[str], None]) -> None:
        """Say what was left out, and refuse what must not be.

        Args:
            name: Name of the network.
            partial: Whether a conversion that loses weights of the network is accepted.
            say: Called with a line for people.

        Raises:
            ModelError: If it does.
        """
        if self.left_out:
            names, path = ", ".join(self.left_out), self.checkpoint.path
            say(f"{path}: left out by timm's conversion ({len(self.left_out)}): {names}")
        if self.lost and not partial:
            raise ModelError(
                f"{self.checkpoint.path} does not fit {name}: timm's conversion drops "
                f"{few(self.lost)}, which is not 0. Name the variant that the file was saved "
                "from, or accept it by `partial`."
            )


def built_by_timm(name: str, **options: Any) -> tuple[nn.Module, Convert | None]:
    """Build a network of timm with random weights.

    Returns:
        The network, and how timm converts weights from elsewhere to its names.
    """
    timm = import_timm()
    with _loading_nothing() as conversions:
        module: nn.Module = timm.create_model(name, pretrained=True, **options)
    return module, conversions[-1] if conversions else None


@contextmanager
def _loading_nothing() -> Iterator[list[Convert | None]]:
    """Keep timm from loading weights, and catch the conversion that it would have used.

    Nothing else gives it away: each family of networks hands its own, with its own arguments, to
    this one function.
    """
    from timm.models import _builder

    caught: list[Convert | None] = []

    def instead(*_args: object, filter_fn: Convert | None = None, **_options: object) -> None:
        caught.append(filter_fn)

    own = _builder.load_pretrained
    _builder.load_pretrained = instead
    try:
        yield caught
    finally:
        _builder.load_pretrained = own


def converted(module: nn.Module, convert: Convert | None, checkpoint: Checkpoint) -> Converted:
    """Convert the weights of a file to the names of a network of timm.

    Args:
        module: The network.
        convert: What `built_by_timm` gave with it.
        checkpoint: What the file holds, under any prefix.

    Returns:
        The checkpoint as it is where more of its weights fit so.
    """
    shapes = shapes_of(module)
    as_it_is = Converted(checkpoint, [], [])
    if convert is None:
        return as_it_is
    found: dict[str, dict[str, Tensor]] = {}
    for prefix in _large_parts(checkpoint.state):
        found[prefix] = _under(prefix, convert, module, checkpoint.state)
    counts = {prefix: _fitting(state, shapes) for prefix, state in found.items()}
    if max(counts.values()) < max(1, _fitting(checkpoint.state, shapes)):
        return as_it_is
    prefix = copies_by_rank(counts)[0]
    state = found[prefix]
    kept = {name for name in checkpoint.state if name.startswith(prefix)}
    kept -= set(_dropped({k: checkpoint.state[k] for k in kept}, state, prefix))
    left_out = [name for name in checkpoint.state if name not in kept]
    layers = {name.rpartition(".")[0] for name in kept}
    lost = [
        name
        for name in left_out
        if name.rpartition(".")[0] in layers
        and name.endswith((".weight", ".bias"))
        and bool(checkpoint.state[name].any())
    ]
    place = ".".join(part for part in (checkpoint.place, prefix.rstrip(".")) if part)
    kind = checkpoint.format_under(prefix)
    return Converted(replace(checkpoint, state=state, place=place, format=kind), left_out, lost)


def _large_parts(state: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes of a fifth or more of the names, the empty one first."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")[:-1]
        for depth in range(min(len(parts), 5)):
            prefix = "".join(f"{part}." for part in parts[: depth + 1])
            counts[prefix] = counts.get(prefix, 0) + 1
    return ["", *(prefix for prefix, count in counts.items() if count * 5 >= len(state))]


def _under(
    prefix: str, convert: Convert, module: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    under = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        with redirect_stdout(StringIO()):  # one of them prints
            renamed = convert(under, module)
    except Exception:  # a conversion may take anything for granted of the files that it is for
        return {}
    return {k: v for k, v in renamed.items() if isinstance(v, Tensor)}


def _fitting(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    match = best_match(state, shapes)
    return len(match.fitting) if match else 0


def _dropped(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], prefix: str
) -> Iterator[str]:
    """Yield the names of the weights that are in no other: renamed ones share their memory."""
    places = sorted(value.data_ptr() for value in after.values())
    for name, value in before.items():
        place = bisect_left(places, value.data_ptr())
        inside = place < len(places) and places[place] < value.data_ptr() + value.nbytes
        if not inside and name.removeprefix(prefix) not in after:
            yield name
