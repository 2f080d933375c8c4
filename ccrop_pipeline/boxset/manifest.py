"""The manifest: what a box set consists of. It is written last, so it marks completeness."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ccrop_pipeline.base import BoxFolder, Location, open_folder
from ccrop_pipeline.base.files import (
    LocalFolder,
    TargetTakenError,
    remove_leftovers,
    sha256_of,
)
from ccrop_pipeline.base.values import from_plain, parse_json, to_plain
from ccrop_pipeline.boxset.inspection import Inspection
from ccrop_pipeline.boxset.provenance import (
    FORMAT,
    Provenance,
    is_known_version,
    provenance_from_text,
)
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import DATA, FORMS, shard_file
from ccrop_pipeline.boxset.statistics import BoxStatistics
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import BoxSetError, CcropError

MANIFEST = "manifest.json"
CARD = "README.md"


class ShardEntry(NamedTuple):
    """One shard: its name, file in the box set, number of rows, size in bytes, sha256 as hex."""

    name: str
    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of a box set but its boxes.

    Attributes:
        provenance: What made the boxes.
        form: `parquet` or `webdataset`.
        shards: The shards, in source order.
        rows: Number of all rows.
        statistics: How much of their images the boxes cover.
    """

    provenance: Provenance
    form: str
    shards: tuple[ShardEntry, ...]
    rows: int
    statistics: BoxStatistics

    @property
    def sha256(self) -> str:
        """SHA-256 of the text of the manifest, so of every shard as well; lower-case hex."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        """Return the text of `manifest.json`; equal manifests have equal texts."""
        data = FORMAT | {
            "form": self.form,
            "fingerprint": self.provenance.fingerprint,
            "provenance": self.provenance.text,
            "libraries": dict(sorted(self.provenance.libraries.items())),
            "rows": self.rows,
            "statistics": to_plain(self.statistics),
            "shards": [shard._asdict() for shard in self.shards],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


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


def wrong_sizes(manifest: Manifest, there: Mapping[str, int]) -> list[Problem]:
    """Find listed shards that are not there with the bytes listed; rule B007."""
    return [
        Problem("B007", entry.file, "missing, or not of the size listed")
        for entry in manifest.shards
        if there.get(shard_file(entry.name, manifest.form)) != entry.bytes
    ]


def check_file(path: Path, entry: ShardEntry) -> list[Problem]:
    """Compare size and hash of the file of a shard with those listed; rule B007."""
    found = path.stat().st_size, sha256_of(path)
    if found == (entry.bytes, entry.sha256):
        return []
    message = f"bytes and sha256 are {found}, not {(entry.bytes, entry.sha256)}"
    return [Problem("B007", entry.file, message)]


def check_row_count(table: BoxTable, entry: ShardEntry) -> list[Problem]:
    """Compare the number of rows of a shard with that listed; rule B008."""
    if len(table) == entry.rows:
        return []
    message = f"{len(table)} rows, and {entry.rows} in the manifest"
    return [Problem("B008", entry.file, message)]


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


@dataclass(frozen=True)
class _Stored:
    """What `manifest.json` has besides format, version and shards."""

    form: str
    fingerprint: str
    provenance: str
    libraries: Mapping[str, str]
    rows: int
    statistics: BoxStatistics


def read_manifest(folder: BoxFolder, problems: list[Problem]) -> Manifest | None:
    """Read `manifest.json`, adding to `problems` what breaks rules B001 to B006 and B008.

    Returns:
        The manifest, or None where it cannot be understood.
    """
    try:
        with folder.local(MANIFEST) as path:
            data = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
        # First the version: of another one, nothing else is known.
        if not is_known_version(data, MANIFEST, problems):
            return None
        stored = from_plain(_Stored, data, complete=True, ignore_unknown=True)
        shards = _entries(data.get("shards"))
    except (OSError, ValueError, CcropError) as error:
        problems.append(Problem("B001", MANIFEST, f"not readable: {error}"))
        return None
    provenance = provenance_from_text(stored.provenance, stored.libraries, MANIFEST, problems)
    if provenance is None:
        return None
    if stored.fingerprint != provenance.fingerprint:
        message = f"fingerprint {stored.fingerprint!r} should be {provenance.fingerprint!r}"
        problems.append(Problem("B004", MANIFEST, message))
    if stored.form not in FORMS:
        problems.append(Problem("B005", MANIFEST, f"the form is {stored.form!r}"))
        return None
    manifest = Manifest(provenance, stored.form, shards, stored.rows, stored.statistics)
    problems += [Problem("B006", MANIFEST, message) for message in _wrong_names(manifest)]
    total = sum(entry.rows for entry in shards)
    if manifest.rows != total:
        message = f"rows is {manifest.rows}, and the shards have {total}"
        problems.append(Problem("B008", MANIFEST, message))
    return manifest


def _entries(shards: Any) -> tuple[ShardEntry, ...]:
    # By hand: for a hundred thousand shards, `from_plain` takes seconds.
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise ValueError("shards is not a list of objects")
    entries = tuple(ShardEntry(*map(shard.get, ShardEntry._fields)) for shard in shards)
    for number, entry in enumerate(entries):
        if (*map(type, entry),) != (str, str, int, int, str):
            raise ValueError(f"shard {number}: a field is missing or of a wrong type in {entry}")
    return entries


def _wrong_names(manifest: Manifest) -> list[str]:
    wrong, seen = [], set()
    for entry in manifest.shards:
        try:
            right = f"{DATA}/{shard_file(entry.name, manifest.form)}"
        except ValueError as error:
            wrong.append(str(error))
            continue
        if entry.file != right:
            wrong.append(f"the file of the shard {entry.name!r} is {entry.file!r}, not {right!r}")
        if entry.name in seen:
            wrong.append(f"the shard {entry.name!r} is listed twice")
        seen.add(entry.name)
    return wrong


def strays(there: Iterable[str], files: Iterable[str]) -> list[Problem]:
    """Find finished shards of either form that are there and not among `files`; rule B010."""
    known = set(files)
    suffixes = tuple(form.suffix for form in FORMS.values())
    return [
        Problem("B010", file, "this shard does not belong to the box set")
        for file in there
        if file.endswith(suffixes) and file not in known
    ]


def strangers(folder: Path) -> list[str]:
    """Find what is in a local folder and no part of a box set or left from writing."""
    suffixes = tuple(form.suffix for form in FORMS.values())
    data = folder / DATA
    shards = data.iterdir() if data.is_dir() else ()
    # Clients of the Hugging Face hub leave a `.cache` in what they download.
    known = (MANIFEST, CARD, DATA, ".cache")
    found = {path for path in folder.iterdir() if path.name not in known}
    found |= {path for path in shards if not path.name.endswith(suffixes)}
    return sorted(str(path.relative_to(folder)) for path in found if path.suffix != ".tmp")
