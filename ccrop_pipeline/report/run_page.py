"""A training run as one HTML file that opens from disk: findings, curves, time, and its boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccrop_pipeline.base import Location
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, SourceError, counted, duration, few, printable
from ccrop_pipeline.images import Source, open_source
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.report.audit import Audit, audit
from ccrop_pipeline.report.curves import HEIGHT, WIDTH
from ccrop_pipeline.report.drift import Drift, drift, refresh_name, refreshes_in
from ccrop_pipeline.report.gallery import Gallery, gallery
from ccrop_pipeline.report.rendering import (
    Finding,
    gravest_first,
    lines_of_json,
    script_json,
    sentence,
    write_page,
)
from ccrop_pipeline.report.run_findings import run_findings
from ccrop_pipeline.report.run_history import History, charts, number, stages, time_spent
from ccrop_pipeline.report.run_provenance import commands, made_by
from ccrop_pipeline.report.spread import evenly

if TYPE_CHECKING:
    from ccrop_pipeline.training import Run

_STATES = 8  # box sets whose boxes are shown of each image
_ROWS = 500  # of the table of figures
_WORDS = ("stage", "why")  # of a record, which are no figures


def report_run(
    run: "Run | str | Path",
    out: str | Path,
    *,
    source: Source | Location | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page about a run: one HTML file that needs no network, of at most 5 MB.

    Figures are those that the run has recorded. Images are shown with their boxes over the
    refreshes where the source can be opened; else the page says why not. A run that is still at
    work can be looked at.

    Args:
        run: A run, or its folder.
        out: The file to write.
        source: The images of the run, or what `open_source` takes; None: where the run found them.
        overwrite: Whether it replaces a file that is there.

    Returns:
        The file.

    Raises:
        CcropError: If the folder holds no run, `out` is there with other content and may not be
            replaced, or cannot be written.
        SourceError: If a source that was given cannot be read, or has other images.
        BoxSetError: If a box set of the run cannot be read.
    """
    from ccrop_pipeline.training import Metrics

    target, run = local_path(out), _opened(run)
    recipe = run.recipe()
    history = History.of(Metrics(run.folder).records(), recipe.epochs)
    sets = [BoxSet.open(folder) for folder in refreshes_in(run.folder / "boxes").values()]
    images, missing = _images_of(run, source)
    shown = _gallery(sets, images, recipe) if images and sets else None
    drifts = [
        drift(old, new) if old else None for old, new in zip([None, *sets], sets, strict=False)
    ]
    judged = [audit(box_set, crop=recipe.crop) for box_set in sets]
    findings = run_findings(history, *((judged[-1], drifts[-1]) if sets else (None, None)))
    refreshes = _refreshes(sets, drifts, judged, history)
    gone = [row["name"] for row in refreshes if row["audit"] is None]
    findings = gravest_first([*findings, *filter(None, (missing, _gone(gone)))])
    drawn = charts(history)
    scripts = ("gallery.js", "refreshes.js") if shown else ()
    return write_page(
        target,
        "run.html.j2",
        ("base.js", *scripts, "charts.js"),
        overwrite=overwrite,
        name=printable(run.folder),
        line=_line(recipe, history, run),
        findings=findings,
        tiles=_tiles(history),
        stages=stages(history),
        spent=time_spent(history),
        charts=drawn,
        width=WIDTH,
        height=HEIGHT,
        figures=_figures(history),
        refreshes=refreshes,
        images=counted(sets[-1].manifest.rows, "image") if sets else "",
        count=sets[-1].manifest.rows if sets else 0,
        shown=shown,
        made=made_by(run, recipe, history),
        commands=[printable(line) for line in commands(run, recipe, history, sets)],
        whole=("What the run was started with, as it is stored", lines_of_json(run.started())),
        data=script_json(_data(drawn, shown, images, sets, judged)),
    )


def _opened(run: "Run | str | Path") -> "Run":
    from ccrop_pipeline.training import Run

    run = Run(local_path(run)) if isinstance(run, str | Path) else run
    if not run.exists:
        is_box_set = (run.folder / "manifest.json").is_file()
        what = (
            "It is a box set: `ccrop boxes report` shows it." if is_box_set else "Check the path."
        )
        raise CcropError(f"{run.folder} holds no run: it has no run.json. {what}")
    return run


def _images_of(
    run: "Run", source: Source | Location | None
) -> tuple[Source | None, Finding | None]:
    """Open the images of a run; where its own cannot be, return what to say of it."""
    from ccrop_pipeline.training.run import expect_no_command

    given = source is not None
    try:
        if source is None:
            source = expect_no_command(run.folder, run.source())
        images = open_source(source) if isinstance(source, str | Path) else source
        if images.fingerprint() != run.source_fingerprint():
            raise SourceError(f"{images.location} does not hold the images of {run.folder}.")
    except (CcropError, OSError) as error:
        if given:
            raise
        why = printable(error)
        text = f"{sentence(why)} Give `source` to see the images with their boxes."
        return None, Finding("note", "The images of the run were not opened", text)
    return images, None


def _gallery(sets: Sequence[BoxSet], images: Source, recipe: Recipe) -> Gallery:
    earlier = [sets[at] for at in evenly(len(sets) - 1, _STATES - 1)]
    return gallery(sets[-1], images, crop=recipe.crop, earlier=earlier)


def _line(recipe: Recipe, history: History, run: "Run") -> str:
    """Return what the run is, in a line."""
    start = history.starts[-1] if history.starts else {}
    images, device = number(start, "images"), start.get("device")
    parts = [
        f"{recipe.method.name}, {recipe.backbone}, {recipe.image_size} px",
        f"{counted(int(images), 'image') if images else 'images'} of {run.source()}",
        f"on {device}" if device else "",
    ]
    return printable(", ".join(filter(None, parts)))


def _tiles(history: History) -> list[tuple[str, str]]:
    """Return the figures that stand out, by what they are called."""
    spent, areas = sum(time_spent(history).values()), history.points("mean_area", history.refresh)
    figures = {
        "loss": (history.last("loss"), "{:.4g}"),
        "kNN accuracy": (history.last("knn"), "{:.1%}"),
        "chance": (history.last("knn_chance"), "{:.1%}"),
        "spread of embeddings": (history.last("embedding_std"), "{:.3f}"),
        "rank of embeddings": (history.last("rankme"), "{:.1f}"),
        "images/s": (history.last("images_per_s"), "{:,.0f}"),
        "mean area of boxes": (areas[-1][1] if areas else None, "{:.1%}"),
    }
    return [
        ("epochs", f"{history.epochs:,} of {history.planned:,}"),
        *(
            (name, form.format(value))
            for name, (value, form) in figures.items()
            if value is not None
        ),
        ("time", duration(spent)),
    ]


def _figures(history: History) -> dict[str, list[list[str]]]:
    """Return the records as tables: by their kind, a row of names and rows of figures."""
    tables = {}
    for name, records in (("Epochs", history.train), ("Refreshes", history.refresh)):
        names = list({name: None for record in records for name in record if name not in _WORDS})
        rows = [records[at] for at in evenly(len(records), _ROWS)]
        cells = [[_cell(record.get(name)) for name in names] for record in rows]
        if cells:
            every = "" if len(rows) == len(records) else f", {len(rows)} of {len(records):,}"
            tables[name + every] = [[*map(printable, names)], *cells]
    return tables


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else printable(value)


def _refreshes(
    sets: Sequence[BoxSet],
    drifts: Sequence[Drift | None],
    judged: Sequence[Audit],
    history: History,
) -> list[dict[str, Any]]:
    """Return what the page says of each box set of the run: as recorded, of those that are gone."""
    made = {Path(str(at)).name: record for record in history.refresh if (at := record["boxes"])}
    there = {
        Path(str(box_set.folder)).name: {
            "name": refresh_name(box_set),
            "audit": own,
            "drift": moved,
            "areas": (own.mean_area, own.full, own.empty),
        }
        for box_set, moved, own in zip(sets, drifts, judged, strict=True)
    }
    rows = []
    for name in sorted({*made, *there}, key=lambda name: (len(name), name)):
        record = made.get(name, {})
        figures = [number(record, figure) for figure in ("mean_area", "share_full", "share_empty")]
        gone = {
            "name": printable(refresh_name(name)),
            "audit": None,
            "drift": None,
            "areas": figures,
        }
        rows.append({"seconds": number(record, "seconds"), **there.get(name, gone)})
    return rows


def _gone(names: Sequence[str]) -> Finding | None:
    """Return what to say of refreshes whose box sets are not in the folder any more."""
    if not names:
        return None
    return Finding(
        "note",
        f"The boxes of {counted(len(names), 'refresh')} are gone",
        f"The run recorded them ({few(names)}), but its folder `boxes` has them no more, or not "
        "whole: their figures are as recorded, and the images are shown without them.",
    )


def _data(
    drawn: Sequence[Any],
    shown: Gallery | None,
    images: Source | None,
    sets: Sequence[BoxSet],
    judged: Sequence[Audit],
) -> dict[str, Any]:
    """Return what the script of the page reads."""
    data: dict[str, Any] = {
        "charts": [
            {
                "percent": each.percent,
                "epochs": each.epochs,
                "frame": each.frame,
                "lines": [
                    {"name": line.name, "points": line.points}
                    for line in each.lines
                    if not line.reference
                ],
            }
            for each in drawn
        ]
    }
    if shown and images:
        data |= {
            "items": shown.items,
            "classes": list(map(printable, images.classes)),
            "grid": shown.grid,
            "earlier": shown.earlier,
            "newest": refresh_name(sets[-1]),
            "median": (spread := judged[-1].spread) and spread.median_box,
        }
    return data
