"""What made a run, and the commands that make it again."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ccrop_pipeline.base.values import flat
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import SettingError, counted, printable
from ccrop_pipeline.recipes import Recipe, bundled_recipes, load_recipe
from ccrop_pipeline.report.run_history import History, number

if TYPE_CHECKING:
    from ccrop_pipeline.training import Run


def made_by(run: "Run", recipe: Recipe, history: History) -> list[tuple[str, str]]:
    """Return the provenance as lines of a table."""
    started, crop, optimizer = run.started(), recipe.crop, recipe.optimizer
    name, changed = _nearest_recipe(recipe)
    lines = [
        ("recipe", f"{name}, with {counted(len(changed), 'setting')} changed" if name else None),
        ("method", recipe.method.name),
        ("backbone", f"{recipe.backbone}, {recipe.image_size} px, {recipe.precision}"),
        ("batches", f"{counted(recipe.batch_size, 'image')}, seed {recipe.seed}"),
        ("windows", f"rule {crop.rule}, alpha {crop.alpha:g}, scale {crop.scale}"),
        ("optimizer", f"{optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule}"),
        ("boxes given", started.get("boxes")),
        ("weights given", started.get("weights")),
        ("source", f"{run.source()}, {run.source_fingerprint()}"),
    ]
    for start in history.starts[-3:]:
        versions = start.get("libraries")
        versions = versions.items() if isinstance(versions, dict) else ()
        processes = counted(int(number(start, "processes") or 1), "process")
        libraries = ", ".join(f"{library} {at}" for library, at in versions)
        begun = "began" if not start["epoch"] else f"went on after epoch {start['epoch']}"
        lines.append(
            (begun, f"{start.get('at')}, on {start.get('device')}, {processes}; {libraries}")
        )
    return [(label, printable(value)) for label, value in lines if value]


def commands(run: "Run", recipe: Recipe, history: History, sets: Sequence[BoxSet]) -> list[str]:
    """Return the commands that make this again, as far as the run knows them."""
    folder, images = shlex.quote(str(run.folder)), shlex.quote(run.source())
    started = run.started()
    name, changed = _nearest_recipe(recipe)
    given = history.train[0]["boxes"] if history.train and started.get("boxes") else None
    words = [f"ccrop train {images} {folder} --recipe {name or 'RECIPE.toml'}"]
    words += [f"--set {shlex.quote(setting)}" for setting in changed]
    if started.get("boxes"):
        words.append(f"--boxes {shlex.quote(given or 'BOXES')}")
    if started.get("missing_boxes", "error") != "error":
        words.append(f"--missing-boxes {shlex.quote(str(started['missing_boxes']))}")
    if started.get("weights"):
        words.append("--load WEIGHTS")
    newest = [f"ccrop boxes report {shlex.quote(str(sets[-1].folder))} {images}"] if sets else []
    return [" ".join(words), f"ccrop probe {folder} {images}", *newest, f"ccrop report {folder}"]


def _nearest_recipe(recipe: Recipe) -> tuple[str | None, list[str]]:
    """Return the recipe of ccrop that is changed least, and the settings that change it.

    None where changes alone do not make the recipe again.
    """
    own, found = dict(flat(recipe.to_dict())), []
    for name in bundled_recipes():
        values = dict(flat(load_recipe(name).to_dict()))
        changed = [f"{each}={_toml(own[each])}" for each in own if values.get(each) != own[each]]
        found.append((len(changed), name, changed))
    for _, name, changed in sorted(found):
        try:
            if load_recipe(name, changed) == recipe:
                return name, changed
        except SettingError:
            continue
    return None, []


def _toml(value: Any) -> str:
    """Return a setting as `load_recipe` takes it."""
    return "auto" if value is None else json.dumps(value)
