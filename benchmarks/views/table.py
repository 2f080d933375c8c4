"""Results as Markdown."""

from statistics import median
from typing import Any

from benchmarks.views.rivals import RIVALS

Seconds = dict[str, list[float]]


def markdown(results: dict[str, Any]) -> str:
    """Return all tables of one run."""
    machine = results["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average'][0]} at the "
        f"start, {machine['date']}; Python {machine['python']}, {libraries}.",
        "",
        *loading_table(results["loading"]),
        "",
        *_stage_table(results["stages"]),
        "",
        *_part_lines(results),
    ]
    return "\n".join(lines)


def loading_table(measured: list[dict[str, Any]]) -> list[str]:
    """Return the images/s of ours, and how many times as long rivals take: median (range)."""
    head = " | ".join(f"{name} / ours" for name in RIVALS)
    lines = [
        f"| images | views | workers | n | ours, images/s | {head} |",
        "|---|---|---|---|---|" + "---|" * len(RIVALS),
    ]
    for one in measured:
        seconds = one["seconds"]
        rate = one["images"] / median(seconds["ours"])
        task = "augmented" if one["complete"] else "crops"
        task += " of pixels" if one["decoded_beforehand"] else " of JPEGs"
        rivals = [ratio(seconds, name) for name in RIVALS]
        cells = [one["set"], task, one["workers"], one["images"], f"{rate:.0f}", *rivals]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def ratio(seconds: Seconds, rival: str) -> str:
    """Ratios of rival to ours within each round: median (least to most)."""
    ratios = [theirs / ours for theirs, ours in zip(seconds[rival], seconds["ours"], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _stage_table(stages: list[dict[str, Any]]) -> list[str]:
    names = list(max((one["seconds"] for one in stages), key=len))
    lines = [
        f"| µs an image, one thread | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
    ]
    for one in stages:
        cells = [_stage_cell(one, name) for name in names]
        lines.append(f"| {one['set']} | {' | '.join(cells)} |")
    return lines


def _stage_cell(one: dict[str, Any], name: str) -> str:
    seconds = one["seconds"].get(name)
    if seconds is None:
        return ""
    share = seconds / sum(one["seconds"].values())
    return f"{1e6 * seconds / one['images']:.0f} ({share:.0%})"


def _part_lines(results: dict[str, Any]) -> list[str]:
    sampler, box_set = results["sampler"], results["box_set"]
    each = {name: 1e6 * median(s) / sampler["views"] for name, s in sampler["seconds"].items()}
    opening = {name: 1e3 * median(s) for name, s in box_set["seconds"].items()}
    times = ", ".join(f"{name} in {value:.1f} ms" for name, value in opening.items())
    return [
        f"A window, random numbers included, {sampler['views']} at a time: ours "
        f"{each['ours']:.2f} µs, authors {each['authors']:.1f} µs; "
        f"ratio {ratio(sampler['seconds'], 'authors')}.",
        "",
        f"A box set of {box_set['rows']} rows: {times}.",
    ]
