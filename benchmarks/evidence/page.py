"""Writes the page of evidence from results, without training anything."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.evidence.arms import BOXES, SEEDS, SHARED, STUDIES, Study
from benchmarks.evidence.figures import Spread, by_seed, paired, spread
from benchmarks.evidence.results import Result, add_results, read_results

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "lab/results/evidence.jsonl"
COMMANDS = HERE / "commands.md"
PAGE = ROOT / "lab/evidence.md"
_WRITTEN = ("introduction", "conclusions", "literature")  # by hand


def page(results: list[Result]) -> str:
    """Return the whole page.

    Args:
        results: All results, of any study, arm and seed.

    Returns:
        Markdown.
    """
    parts = [(HERE / f"{name}.md").read_text() for name in _WRITTEN]
    for name, study in STUDIES.items():
        own = [result for result in results if result["study"] == name]
        parts += _study(name, study, own) if own else [f"## {study.title}\n\nNot run yet.\n"]
    return "\n".join([*parts, _costs(results), _origin(results)])


Arms = dict[str, dict[int, Result]]


def _study(name: str, study: Study, results: list[Result]) -> list[str]:
    # Every arm but the sweeps' has the alpha and the threshold of the study.
    first = next((result for result in results if result["arm"] in SHARED), results[0])
    recipe, arms = first["recipe"], {arm: by_seed(results, name, arm) for arm in study.arms}
    k, temperature = first["knn_settings"]["k"], first["knn_settings"]["temperature"]
    threshold = recipe["boxes"]["threshold"] or "self-set"
    settings = (
        f"{first['train']['images']:,} training and {first['test']['images']:,} test images; "
        f"{recipe['method']['name']}, encoder `{recipe['backbone']}`, {recipe['epochs']} epochs in "
        f"batches of {recipe['batch_size']} in {recipe['precision']}, of which {study.warmup} of "
        "warm-up with random crops; "
        f"alpha {recipe['crop']['alpha']} and threshold {threshold} where an arm does not say "
        f"otherwise. kNN: k = {k}, temperature {temperature}."
    )
    return [
        f"## {study.title}\n\n{_wrapped(settings)}\n",
        f"![learning curves](results/evidence-{name}.svg)\n",
        *([tuning] if (tuning := _tuning(study, arms)) else []),
        _arms_table(study, arms),
        *_size_tables(study, arms),
        *([_contrasts_table(study, arms)] if study.contrasts else []),
        *(_sweep_table(study, arms, setting) for setting in study.sweeps),
        _boxes_table(study, arms),
        _windows_table(study, arms),
    ]


def _base(study: Study, arms: Arms) -> str:
    """Return the arm that all are compared with: the first, or the best of the tuned ones."""
    tuned = [name for name in study.tuned if arms[name]]
    on_held = {name: mean(one["held"]["knn"] for one in arms[name].values()) for name in tuned}
    return max(tuned, key=on_held.__getitem__, default=next(iter(study.arms)))


def _tuning(study: Study, arms: Arms) -> str:
    found = [result["held"] for name in study.tuned for result in arms[name].values()]
    if not found:
        return ""
    text = (
        f"All are compared with {study.arms[_base(study, arms)].title}: the best of "
        f"{len(study.tuned)} by the mean kNN on {found[0]['images']:,} images that are used for "
        "nothing else. Their values: "
    )
    values = [
        f"{study.arms[name].title}, "
        f"{_percent(Spread(tuple(one['held']['knn'] for one in arms[name].values())))}"
        for name in study.tuned
        if arms[name]
    ]
    return f"{_wrapped(text + '; '.join(values))}.\n"


def _arms_table(study: Study, arms: Arms) -> str:
    base = _base(study, arms)
    rows = []
    for name, arm in study.arms.items():
        found = arms[name]
        if not found:
            rows.append([arm.title, "missing", *[""] * 5])
            continue
        each = " ".join(
            f"{100 * found[seed]['knn']:.2f}" if seed in found else "missing" for seed in SEEDS
        )
        cells = [
            arm.title,
            each,
            _percent(spread(found, "knn")),
            *_difference(found, arms[base], "knn", same=name == base),
            _percent(spread(found, "linear")),
            _difference(found, arms[base], "linear", same=name == base)[0],
        ]
        rows.append(cells)
    seeds = ", ".join(map(str, SEEDS))
    heads = [
        "windows",
        f"kNN, seeds {seeds}",
        "kNN",
        "over random",
        "agree",
        "linear",
        "over random",
    ]
    return "### Accuracy\n\n" + _table(heads, rows)


def _size_tables(study: Study, arms: Arms) -> list[str]:
    base = _base(study, arms)
    quarters = next((one["by_size"] for one in arms[base].values() if one.get("by_size")), [])
    if not quarters:
        return []
    heads = [f"to {quarter['largest']:.2f}" for quarter in quarters]
    note = (
        "Quarters of the test images by the area of their true box, as a share of the image: "
        f"accuracy of {study.arms[base].title}, and of all others the difference from it."
    )
    tables = [f"### By size of the true box\n\n{_wrapped(note)}\n"]
    for probe, title in (("knn", "kNN"), ("linear", "linear")):
        rows = []
        for name, arm in study.arms.items():
            pairs = [
                [_quarter(arms[each], at, probe) for each in (name, base)]
                for at in range(len(quarters))
            ]
            cells = [
                _percent(spread(own, probe)) if name == base else _difference(own, other, probe)[0]
                for own, other in pairs
            ]
            rows.append([arm.title, *cells])
        tables.append(_table([f"{title}, true box", *heads], rows))
    return tables


def _quarter(arm: dict[int, Result], at: int, probe: str) -> dict[int, Result]:
    return {seed: {probe: result["by_size"][at][probe]} for seed, result in arm.items()}


def _contrasts_table(study: Study, arms: Arms) -> str:
    rows = [
        [
            question,
            *_difference(arms[arm], arms[other], "knn"),
            *_difference(arms[arm], arms[other], "linear"),
        ]
        for question, arm, other in study.contrasts
    ]
    heads = ["one thing at a time", "kNN", "agree", "linear", "agree"]
    return "### Paired differences\n\n" + _table(heads, rows)


def _sweep_table(study: Study, arms: Arms, setting: str) -> str:
    base = _base(study, arms)
    rows = [
        [
            value,
            *_accuracy(arms[arm]),
            _difference(arms[arm], arms[base], "knn", same=arm == base)[0],
            *_fit(arms[arm]),
        ]
        for value, arm in study.sweeps[setting].items()
    ]
    heads = [setting, "kNN", "linear", "kNN over random", *_FIT]
    return f"### {setting.capitalize()}\n\n" + _table(heads, rows)


_FIT = ["mean area", "full boxes", "mean IoU", "IoU ≥ 0.5"]


def _boxes_table(study: Study, arms: Arms) -> str:
    rows, shown = [], set()
    for name, arm in study.arms.items():
        kind = (arm.boxes, arm.threshold)  # arms that differ in the rule only have the same sets
        if arm.boxes != "none" and kind not in shown:
            shown.add(kind)
            rule = _self_set(arms[name]) if arm.threshold is None else f"threshold {arm.threshold}"
            rows.append([", ".join(filter(None, (BOXES[arm.boxes], rule))), *_fit(arms[name])])
    note = "Of the last set of a run, mean over seeds; IoU with the true box where it is known."
    return f"### Boxes\n\n{note}\n\n" + _table(["boxes", *_FIT], rows)


def _self_set(arm: dict[int, Result]) -> str:
    sets = [one for result in arm.values() for one in result["boxes"] if "worthless" in one]
    called = sum(one["worthless"] for one in sets)
    return f"self-set rule, by which {called} of {len(sets)} sets are worth nothing" if sets else ""


def _windows_table(study: Study, arms: Arms) -> str:
    rows = []
    for name, arm in study.arms.items():
        found = [result["windows"] for result in arms[name].values()]
        cells = [
            f"{mean(one[entry] for one in found):.3f}" if found and entry in found[0] else ""
            for entry in ("pair_iou", "object", "missed")
        ]
        rows.append([arm.title, *(cells if found else ["missing", "", ""])])
    note = (
        "Windows drawn as in training (ten pairs an image, last boxes of the run): mean IoU of the "
        "two windows of a pair; where the truth is known, the mean share of the object that a "
        "window shows, and the share of windows that show less than a quarter of it."
    )
    heads = ["windows", "IoU of a pair", "object shown", "shown < 1/4"]
    return f"### What the windows show\n\n{_wrapped(note)}\n\n" + _table(heads, rows)


def _fit(arm: dict[int, Result]) -> list[str]:
    if not arm:
        return ["missing", "", "", ""]
    last = [result["boxes"][-1] for result in arm.values() if result["boxes"]]
    if not last:  # random crops
        return ["", "", "", ""]
    return [
        f"{100 * mean(one[name] for one in last):.1f} %" if name in last[0] else ""
        for name in ("area", "full")
    ] + [
        f"{mean(one['iou'] for one in last):.3f}" if "iou" in last[0] else "",
        f"{100 * mean(one['found'] for one in last):.1f} %" if "found" in last[0] else "",
    ]


def _accuracy(arm: dict[int, Result]) -> list[str]:
    return [_percent(spread(arm, name)) if arm else "missing" for name in ("knn", "linear")]


def _difference(
    arm: dict[int, Result], other: dict[int, Result], name: str, same: bool = False
) -> list[str]:
    """Return the paired difference, and how many seeds agree with its sign."""
    found = paired(arm, other, name)
    if same:
        return ["", ""]
    if not found.values:
        return ["missing", ""]
    text = f"{100 * found.mean:+.2f}"
    if found.error is not None:
        text += f" ± {100 * found.error:.2f}"
    return [text, f"{found.agreeing} of {len(found.values)}"]


def _percent(found: Spread) -> str:
    text = f"{100 * found.mean:.2f}"
    return text if found.deviation is None else f"{text} ± {100 * found.deviation:.2f}"


def _costs(results: list[Result]) -> str:
    rows = []
    for result in results:
        if result["arm"] in ("paper", "four-refreshes", "self-set"):
            spent = sum(result["refresh_seconds"])
            rows.append(
                [
                    STUDIES[result["study"]].title,
                    STUDIES[result["study"]].arms[result["arm"]].title,
                    str(result["seed"]),
                    f"{result['train_seconds']:.0f}",
                    f"{spent:.1f}",
                    str(len(result["refresh_seconds"])),
                    f"{spent / result['train_seconds']:.3f}",
                ]
            )
    heads = ["study", "arm", "seed", "training, s", "refreshes, s", "refreshes", "ratio"]
    return (
        "## What the alternation costs\n\n"
        + (HERE / "costs.md").read_text()
        + "\n"
        + _table(heads, rows)
    )


def _origin(results: list[Result]) -> str:
    def each(entry: str, name: str) -> str:
        return ", ".join(sorted({str(result[entry][name]) for result in results}))

    hours = sum(r["train_seconds"] + sum(r["refresh_seconds"]) for r in results) / 3600
    runs = len(results)
    wanted = sum(len(study.arms) for study in STUDIES.values()) * len(SEEDS)
    origin = (
        f"{runs} of {wanted} runs; {hours:.1f} hours of training and refreshes, of which the "
        "warm-up that arms share is counted in each of them. "
        f"CPU: {each('machine', 'cpu')}, {each('machine', 'cores')} cores, "
        f"{each('machine', 'threads')} thread a run; {_on_gpus(results)}"
        f"torch {each('machine', 'torch')}, "
        f"Python {each('machine', 'python')}. "
        f"Code: {', '.join(sorted({result['code'] for result in results}))}. "
        "Every result, with its whole recipe: [results/evidence.jsonl](results/evidence.jsonl)."
    )
    return f"## Where the figures come from\n\n{_wrapped(origin)}\n\n{COMMANDS.read_text()}"


def _on_gpus(results: list[Result]) -> str:
    found = Counter(
        (result["study"], result["machine"]["gpu"])
        for result in results
        if "gpu" in result["machine"]
    )
    return "".join(f"{runs} runs of `{study}` on {gpu}; " for (study, gpu), runs in found.items())


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(new: Sequence[Path] = ()) -> None:
    """Write the page and its pictures.

    Args:
        new: Files of results that are added to the committed ones first.
    """
    from benchmarks.evidence.pictures import learning_curves

    for file in new:
        add_results(RESULTS, read_results(file))
    found = read_results(RESULTS)
    PAGE.write_text(page(found))
    for name, study in STUDIES.items():
        own = [result for result in found if result["study"] == name]
        if own:
            learning_curves(study, own, RESULTS.parent / f"evidence-{name}.svg")
