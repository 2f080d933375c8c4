"""Weights into a network, with account of every one that is missing or left over."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError, few
from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.network import import_timm

# Parts that follow a backbone in training and are of no use without their loss.
_HEAD = re.compile(
    r"(^|[._])(fc|head|heads|proj(ect(or|ion))?(_?(head|mlp|net))?|predict(or|ion)(_head)?|"
    r"pred|linear|classifier|mlp|queue|queue_ptr|prototypes|decoder\w*|mask_token|"
    r"online_classifier|knn\w*|criterion|loss|contrast\w*|center|f2|g)([._]|\d|$)"
)
# Networks that follow another one in training: the copy to take is the one that learns.
_FOLLOWS = re.compile(r"(^|[._])(encoder_k|momentum|target|ema|key|teacher|m)([._]|\d|$)")
_COUNTER = "num_batches_tracked"  # of old and of converted files; it does not reach the features


@dataclass(frozen=True)
class Match:
    """How the weights under one prefix fit a network.

    Attributes:
        prefix: Prefix of the names of the backbone.
        fitting: Names that the network and the file have in the same shape.
        missing: Names that only the network has.
        reshaped: Names that both have, with the shapes in the file and in the network.
        unexpected: Names under the prefix that only the file has, heads left out.
        heads: Names in the file that belong to heads, with the prefix.
        elsewhere: Names in the file that belong to other copies of the network.
        unknown: All other names in the file.
    """

    prefix: str
    fitting: list[str]
    missing: list[str]
    reshaped: list[str]
    unexpected: list[str]
    heads: list[str]
    elsewhere: list[str]
    unknown: list[str]


def best_match(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Match | None:
    """Return the prefix under which the weights of a network are in a file.

    Args:
        state: The weights of the file.
        shapes: Names and shapes of the network's own.

    Returns:
        The copy that learns if there are several; DINO's teacher where a student is beside
        it. None if no weight of the network is there under any prefix.
    """
    counts = {
        prefix: sum(_shape(state, prefix + name) == shape for name, shape in shapes.items())
        for prefix in _prefixes(state, shapes)
    }
    copies = copies_by_rank(counts)
    return _match(state, shapes, copies[0], copies[1:]) if copies else None


def copies_by_rank(counts: Mapping[str, int]) -> list[str]:
    """Return the prefixes under which copies of one network are, the one to take first.

    Args:
        counts: How many weights of the network are under each prefix.

    Returns:
        The copy that learns before those that follow it, DINO's teacher before its student.
    """
    # Copies of one network fit about equally well; a part of it that looks alike fits worse.
    most = max(counts.values(), default=0)
    copies = [prefix for prefix, count in counts.items() if count > most / 2]
    distilled = any("student" in prefix for prefix in copies)

    def rank(prefix: str) -> tuple[bool, int, str]:
        wanted = "teacher" in prefix if distilled else not _FOLLOWS.search(prefix)
        return not wanted, -counts[prefix], prefix

    return sorted(copies, key=rank)


def fit(
    module: nn.Module, checkpoint: Checkpoint, *, partial: bool, say: Callable[[str], None]
) -> Match:
    """Load the weights of a checkpoint into a network and say what did not fit.

    Args:
        module: The network; changed in place.
        checkpoint: What the file holds.
        partial: Whether a network that is not met in full is accepted.
        say: Called with a line for people.

    Raises:
        ModelError: If the file has not all weights of the network, or more of them.
    """
    own = shapes_of(module)
    match = best_match(checkpoint.state, own)
    if match is None or match.missing:
        state = _by_order(checkpoint.state, own)
        if state is not None:
            say(
                f"{checkpoint.path}: its weights have other names than the "
                "network's; they are taken in their order, in which every shape fits."
            )
            checkpoint = replace(checkpoint, state=state)
            match = best_match(state, own)
    if match is None:
        raise ModelError(
            f"{checkpoint.path} has none of the {len(own)} weights of the network, under any "
            f"prefix. The file has {few(checkpoint.state)}; the network {few(own)}. "
            "Name the architecture that the file was saved from."
        )
    for line in _account(match, checkpoint, len(own)):
        say(line)
    faults = len(match.missing) + len(match.reshaped) + len(match.unexpected)
    if faults and not partial:
        raise ModelError(_refusal(match, checkpoint, len(own)))
    found = {name: checkpoint.state[match.prefix + name] for name in match.fitting}
    module.load_state_dict(found, strict=False)
    return match


def _by_order(
    state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor] | None:
    """Return the weights of a file under the names of a network whose copy it is under others.

    Both list them as they were built. Every one must be of the same shape and end in the same
    word, and what a file has more must be heads.
    """
    names = [name for name in state if not name.endswith(_COUNTER)]
    first, rest = names[: len(own)], names[len(own) :]
    theirs = [(name.rpartition(".")[2], tuple(state[name].shape)) for name in first]
    ours = [(name.rpartition(".")[2], shape) for name, shape in own.items()]
    if theirs != ours or not all(_HEAD.search(name) for name in rest):
        return None
    heads = {name: state[name] for name in rest}
    return {**{name: state[old] for name, old in zip(own, first, strict=True)}, **heads}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of a backbone: no classifier, no counters."""
    return {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
        and not name.endswith(_COUNTER)
        and not re.match(r"(fc|classifier|head|heads|AuxLogits|aux\d)\.", name)
    }


def _prefixes(state: Iterable[str], names: Iterable[str]) -> set[str]:
    """Return the prefixes under which some of the names occur; a few names find them all."""
    some = sorted(names, key=lambda name: -name.count("."))[:3] + list(names)[:3]
    return {
        key.removesuffix(name)
        for key in state
        for name in some
        if key == name or key.endswith("." + name)
    }


def _match(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    prefix: str,
    others: list[str],
) -> Match:
    under = [k.removeprefix(prefix) for k in state if k.startswith(prefix)]
    apart = [k for k in state if not k.startswith(prefix)]
    elsewhere = [k for k in apart if k.startswith(tuple(other for other in others if other))]
    spare = [k for k in under if k not in shapes and not k.endswith(_COUNTER)]
    if not prefix:  # then everything is under it, the other copies too
        elsewhere = [k for k in spare if k.startswith(tuple(others))]
        spare = [k for k in spare if k not in elsewhere]
    rest = [k for k in apart if k not in elsewhere]
    return Match(
        prefix,
        [k for k, shape in shapes.items() if _shape(state, prefix + k) == shape],
        [k for k in shapes if prefix + k not in state],
        [
            f"{k} {_shape(state, prefix + k)} in the file, {shape} in the network"
            for k, shape in shapes.items()
            if _shape(state, prefix + k) not in (None, shape)
        ],
        [k for k in spare if not _HEAD.search(_root(k))],
        [prefix + k for k in spare if _HEAD.search(_root(k))]
        + [k for k in rest if _HEAD.search(k)],
        elsewhere,
        [k for k in rest if not _HEAD.search(k)],
    )


def _root(name: str) -> str:
    return name.split(".", 1)[0]


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _account(match: Match, checkpoint: Checkpoint, total: int) -> list[str]:
    kind = checkpoint.format_under(match.prefix)
    place = f" in {checkpoint.place}" if checkpoint.place else ""
    prefix = f" under {match.prefix!r}" if match.prefix else ""
    lines = [
        f"{checkpoint.path}: {kind}; {len(match.fitting)} of {total} weights of the backbone "
        f"found{place}{prefix}."
    ]
    for what, names in (
        ("missing", match.missing),
        ("of another shape", match.reshaped),
        ("unexpected", match.unexpected + match.unknown),
        ("left out, heads", match.heads),
        ("left out, other copies of the network", match.elsewhere),
    ):
        if names:
            lines.append(f"  {what} ({len(names)}): {', '.join(names)}")
    return lines


def _refusal(match: Match, checkpoint: Checkpoint, total: int) -> str:
    parts = [
        f"{len(names)} {what} ({few(names)})"
        for what, names in (
            ("missing", match.missing),
            ("of another shape", match.reshaped),
            ("unexpected", match.unexpected),
        )
        if names
    ]
    return (
        f"{checkpoint.path} does not fit the network: {len(match.fitting)} of {total} weights of "
        f"the backbone are there, {'; '.join(parts)}. Boxes from a network that is partly random "
        "mean little: name the right architecture (torchvision:NAME or timm:NAME with "
        "`weights`), or accept it by `partial`."
    )


_TORCHVISION, _TIMM = "encoder.pos_embedding", "pos_embed"


def with_positions_for(module: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its position embeddings resampled to the grid of a network.

    Args:
        module: The network, built for the size it is to see. Bicubic as in its own library.
        checkpoint: What the file holds.
    """
    own = module.state_dict()
    state = dict(checkpoint.state)
    for name, resampled in ((_TORCHVISION, _by_torchvision), (_TIMM, _by_timm)):
        for key, value in checkpoint.state.items():
            ends = key == name or key.endswith("." + name)
            if name in own and ends and value.shape != own[name].shape:
                state[key] = resampled(module, value)
    return replace(checkpoint, state=state)


def _by_torchvision(module: Any, positions: Tensor) -> Tensor:
    from torchvision.models.vision_transformer import interpolate_embeddings

    resampled = interpolate_embeddings(
        module.image_size, module.patch_size, {_TORCHVISION: positions}
    )[_TORCHVISION]
    assert isinstance(resampled, Tensor)
    return resampled


def _by_timm(module: Any, positions: Tensor) -> Tensor:
    import_timm()
    from timm.layers import resample_abs_pos_embed

    grid = module.patch_embed.grid_size
    prefix = module.pos_embed.shape[1] - grid[0] * grid[1]
    resampled = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)
    assert isinstance(resampled, Tensor)
    return resampled
