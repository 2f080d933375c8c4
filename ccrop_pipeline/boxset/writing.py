"""Making a box set complete: what is left to write, and the manifest and the card at the end."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ccrop_pipeline.base import BoxFolder, Location, open_folder
from ccrop_pipeline.base.files import (
    TargetTakenError,
    is_hidden_name,
    refuse_file,
    remove_leftovers,
    sha256_of,
)
from ccrop_pipeline.base.stores import LocalFolder
from ccrop_pipeline.boxset.inspection import Inspection
from ccrop_pipeline.boxset.manifest import (
    CARD,
    CROISSANT,
    MANIFEST,
    Manifest,
    ShardEntry,
    read_manifest,
    strays,
    wrong_sizes,
)
from ccrop_pipeline.boxset.provenance import Provenance
from ccrop_pipeline.boxset.reader import BoxSet
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import (
    DATA,
    FORMS,
    shard_file,
    shard_is_complete,
    shard_provenance,
    write_shard,
)
from ccrop_pipeline.errors import BoxSetError

# What a hidden file begins with in which those who compute boxes leave the rule that they chose.
CHOICE = ".choice-"


def left_to_write(
    folder: Location,
    shard_names: Iterable[str],
    provenance: Provenance,
    *,
    form: str = "parquet",
    portion: Iterable[str] | None = None,
    heatmaps: bool | None = None,
) -> list[str]:
    """Return the shards that are not there yet; refuse a folder in which they would do harm.

    To be called before any work: shards beside those of another source or of another form would
    keep both box sets from ever being complete. Nor is a box set begun among files of others.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        shard_names: All its shards, in source order.
        provenance: What makes the boxes.
        form: `parquet` or `webdataset`.
        portion: Those of the shards to look for; None: all.
        heatmaps: Whether the shards to come have heatmaps; None: as those that are there.

    Raises:
        BoxSetError: If the folder holds shards that are damaged, or of anything else, or no part
            of a box set and other files, hidden ones apart.
        SettingError: If the form is not known or a name is no plain file name.
    """
    place, names = open_folder(folder), list(shard_names)
    files = {name: shard_file(name, form) for name in names}
    there = place.inside(DATA).files()
    # One of any other portion, since those who share the work must agree.
    others = [name for name in names if files[name] in there][:1]
    mine = names if portion is None else list(portion)
    left = {
        name
        for name in dict.fromkeys([*others, *mine])
        if not (files[name] in there and shard_is_complete(folder, name, provenance, form=form))
    }
    if place.has(MANIFEST):
        _expect_same_set(place, names, provenance, form)
    else:
        refuse_foreign(folder)
    if found := strays(there, files.values()):
        raise BoxSetError(
            f"{folder} holds shards that are none of these images', such as {found[0].where} (rule "
            "B010). Check the source, choose another folder, or delete what is there."
        )
    if left and others and heatmaps is not None:
        _expect_heatmaps(place, files[others[0]], form, wanted=heatmaps)
    return [name for name in mine if name in left]


def provenance_in(folder: Location, *, form: str = "parquet") -> Provenance | None:
    """Return what made the box set in a folder, complete or not.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        form: `parquet` or `webdataset`.

    Returns:
        None where nothing is there, or what is there is damaged, which `left_to_write` refuses.
    """
    place = open_folder(folder)
    if place.has(MANIFEST):
        manifest = read_manifest(place, [])
        return manifest.provenance if manifest else None
    suffix = FORMS[form].suffix
    there = sorted(name for name in place.inside(DATA).files() if name.endswith(suffix))
    name = there[0].removesuffix(suffix) if there else ""
    return shard_provenance(folder, name, [], form=form) if name else None


def _expect_same_set(place: BoxFolder, names: list[str], provenance: Provenance, form: str) -> None:
    problems: list[Problem] = []
    found = read_manifest(place, problems)
    refuse(problems, f"{place} is damaged: delete it, or choose another folder.")
    assert found is not None
    changed = found.provenance.differences(provenance)
    if found.form != form:
        changed.append(f"form: {found.form} -> {form}")
    listed = [entry.name for entry in found.shards]
    if listed != names:
        changed.append(f"shards: {_some(listed)} -> {_some(names)}")
    if changed:
        raise BoxSetError(
            f"{place} holds a box set that was made in another way ({MANIFEST}):\n  "
            + "\n  ".join(changed)
            + "\nRepeat what made it, choose another folder, or delete it."
        )


def refuse_foreign(folder: Location) -> None:
    """Refuse to begin a box set among files of others; what is hidden is in nobody's way.

    Args:
        folder: Where the box set goes, a path or an address that fsspec knows.

    Raises:
        BoxSetError: If there are such files, and neither manifest nor shard of a box set.
    """
    place, suffixes = open_folder(folder), tuple(form.suffix for form in FORMS.values())
    shards = (name for name in place.inside(DATA).files() if name.endswith(suffixes))
    if place.has(MANIFEST) or next(shards, None):
        return
    if isinstance(place, LocalFolder):
        refuse_file(place.path)
        found = strangers(place.path) if place.exists() else []
    else:
        found = sorted(place.files().keys() - {CARD, CROISSANT})
    foreign = [name for name in found if not any(p.startswith(".") for p in name.split("/"))]
    if foreign:
        raise BoxSetError(
            f"{place} is not empty and holds no box set: found {_some(foreign)}. Choose another "
            "folder, or move what is there."
        )


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join([*names[:2], *['...'][: len(names) - 2]])})"


def _expect_heatmaps(place: BoxFolder, file: str, form: str, *, wanted: bool) -> None:
    with place.inside(DATA).local(file) as path:
        _, table = FORMS[form].load(path, [])
    if table is not None and len(table) and wanted != (table.heatmaps is not None):
        raise BoxSetError(
            f"{place} holds shards {'without' if wanted else 'with'} heatmaps, such as {file}, and "
            f"those to come would be {'with' if wanted else 'without'}: all or none have them "
            "(rule B024). Go on as it was begun, choose another folder, or delete what is there."
        )


def write_manifest(
    folder: Location, shard_names: Iterable[str], provenance: Provenance, *, form: str = "parquet"
) -> Manifest:
    """Check all shards against the rules and declare the box set complete.

    Any process that finds all shards there may call this, several at once as well: the first one
    writes the manifest, and those that find it there do not read the shards again.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        shard_names: All its shards, in source order.
        provenance: What made the boxes; every shard must have its fingerprint.
        form: `parquet` or `webdataset`.

    Returns:
        The manifest as it is there.

    Raises:
        BoxSetError: If a shard is missing or a rule is broken, naming the places, or another
            manifest is there already. Nothing is written then.
        SettingError: If the form is not known or a name is no plain file name.
    """
    place, names = open_folder(folder), list(shard_names)
    if isinstance(place, LocalFolder):
        remove_leftovers(place.path)
    files = {name: shard_file(name, form) for name in names}
    there = place.inside(DATA).files()
    missing = [file for file in files.values() if file not in there]
    if missing:
        raise BoxSetError(
            f"{place} lacks {len(missing)} of {len(names)} shards, such as {missing[0]}. "
            "Run the same command again: it computes what is missing."
        )
    problems = strays(there, files.values())
    if len(files) < len(names):
        problems.append(Problem("B006", str(place), "the same shard name is given twice"))
    found = read_manifest(place, []) if place.has(MANIFEST) and not problems else None
    if found and _says(found, names, provenance, form) and not wrong_sizes(found, there):
        return found
    manifest = _inspected(place, files, provenance, form, problems)
    _write_card(place, manifest)
    try:
        with place.written(MANIFEST) as path:
            path.write_text(manifest.to_text(), encoding="utf-8")
    except TargetTakenError:
        # Another process may have been as far with other versions of the libraries.
        found = read_manifest(place, [])
        if not found or not _says(found, names, provenance, form):
            raise
        if found.shards != manifest.shards:
            raise
        return found
    return manifest


def _inspected(
    place: BoxFolder,
    files: dict[str, str],
    provenance: Provenance,
    form: str,
    problems: list[Problem],
) -> Manifest:
    data = place.inside(DATA)
    inspection = Inspection(data, form, provenance.fingerprint)
    entries = []
    for name, file in files.items():
        with data.local(file) as path:
            table = inspection.shard(path)
            if table is not None:
                size, digest = path.stat().st_size, sha256_of(path)
                entries.append(ShardEntry(name, f"{DATA}/{file}", len(table), size, digest))
    remedy = f"No manifest was written to {place}: put this right, then run again."
    refuse(problems + inspection.problems(), remedy)
    rows, statistics = sum(entry.rows for entry in entries), inspection.tally.statistics()
    return Manifest(provenance, form, tuple(entries), rows, statistics)


def _says(manifest: Manifest, names: list[str], provenance: Provenance, form: str) -> bool:
    listed = [entry.name for entry in manifest.shards]
    same = manifest.provenance.fingerprint == provenance.fingerprint
    return same and (listed, manifest.form) == (names, form)


_CARD = """---
configs:
- config_name: default
  data_files: data/*{suffix}
tags:
- ccrop-boxes
---

# Boxes of {rows:,} images

One box for each image of a source, in a box set of ccrop, format version {version}: normalised
`x_min, y_min, x_max, y_max`, half-open, in the stored pixels without their EXIF orientation, joined
to the images by `key`. {found}

What made the boxes is in `manifest.json` and in every shard:

```json
{provenance}
```

{reading}
"""
_READING = {
    "parquet": """Any reader of Parquet opens the folder `data`, such as `pandas.read_parquet`,
`polars.read_parquet` or `pyarrow.parquet.read_table`; `datasets.load_dataset` opens this one.""",
    "webdataset": """`webdataset.WebDataset` reads the tars in `data`, one sample `box.json` an
image; `datasets.load_dataset` opens this folder.""",
}


def _write_card(place: BoxFolder, manifest: Manifest) -> None:
    """Write `README.md`, what people and hubs read, unless one is there."""
    if place.has(CARD):
        return
    found, made_by = manifest.statistics, manifest.provenance.to_json()
    area = f"{found.mean_area:.1%} of their image" if manifest.rows else "nothing"
    del made_by["libraries"]  # which differ between processes that finish at the same time
    for name in ("threshold", "kappa", "freedom", "mean_area"):
        ((made_by["localizer"] or {}).get("choice") or {}).pop(name, None)  # long lists
    text = _CARD.format(
        suffix=FORMS[manifest.form].suffix,
        rows=manifest.rows,
        version=made_by["version"],
        found=f"They cover {area} in the mean. Rows by `status`: "
        + ", ".join(f"{count:,} `{status}`" for status, count in found.counts.items())
        + ". Those that are not `ok` have the whole image as their box.",
        provenance=json.dumps(made_by, indent=1, ensure_ascii=False),
        reading=_READING[manifest.form],
    )
    with suppress(TargetTakenError), place.written(CARD) as path:
        path.write_text(text, encoding="utf-8")


def strangers(folder: Path) -> list[str]:
    """Find what is in a local folder and no part of a box set or left from writing."""
    suffixes = tuple(form.suffix for form in FORMS.values())
    data = folder / DATA
    shards = data.iterdir() if data.is_dir() else ()
    # Clients of the Hugging Face hub leave a `.cache` in what they download.
    known = (MANIFEST, CARD, CROISSANT, DATA, ".cache")
    found = {path for path in folder.iterdir() if path.name not in known}
    found |= {path for path in shards if not path.name.endswith(suffixes)}
    return sorted(
        str(path.relative_to(folder))
        for path in found
        if not (is_hidden_name(path.name) or path.name.startswith(CHOICE))
    )


def convert(folder: Location, out: Location, *, form: str) -> Manifest:
    """Write a box set again in another form, with the same rows and the same provenance.

    After a kill the same call continues. Parquet to WebDataset and back gives the same bytes
    with the same version of pyarrow, but for keys of a folder: the WebDataset form has them as its
    tars do.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        out: Folder of the new one, either as well.
        form: `parquet` or `webdataset`.

    Returns:
        The new manifest.

    Raises:
        BoxSetError: If `folder` holds no complete box set, `out` holds something else, or
            a key cannot be kept by WebDataset, or two would become one.
        SettingError: If the form is not known.
    """
    boxes = BoxSet.open(folder)
    provenance = boxes.manifest.provenance
    names = [entry.name for entry in boxes.manifest.shards]
    for name in left_to_write(out, names, provenance, form=form):
        write_shard(out, name, boxes.read(name), provenance, form=form)
    return write_manifest(out, names, provenance, form=form)
