"""The manifest: what a box set consists of. It is written last, so it marks completeness."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccrop_pipeline.boxset.atomic import written_aside
from ccrop_pipeline.boxset.inspection import Inspection
from ccrop_pipeline.boxset.provenance import Provenance, provenance_from_json, typed
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.shards import FORMS, shard_file
from ccrop_pipeline.boxset.table import STATUSES
from ccrop_pipeline.errors import CcropError

MANIFEST = "manifest.json"
_FIELDS = {"ccrop", "form", "rows", "counts", "shards"}


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its name, file name, number of rows, size in bytes and sha256 as hex."""

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
        counts: Number of rows for each status.
        rows: Number of all rows.
    """

    provenance: Provenance
    form: str
    shards: tuple[ShardEntry, ...]
    counts: dict[str, int]
    rows: int

    @property
    def sha256(self) -> str:
        """Hash of the text of the manifest, so of every shard as well; lower-case hex."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        """Give the text of `manifest.json`; equal manifests give equal texts."""
        data = {
            "ccrop": self.provenance.to_json(),
            "form": self.form,
            "rows": self.rows,
            "counts": self.counts,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def write_manifest(
    folder: Path, shard_names: Iterable[str], provenance: Provenance, form: str = "parquet"
) -> Manifest:
    """Check all shards against the rules and declare the box set complete.

    Args:
        folder: The box set.
        shard_names: All its shards, in source order.
        provenance: What made the boxes; every shard must have its fingerprint.
        form: `parquet` or `webdataset`.

    Returns:
        The manifest as written.

    Raises:
        CcropError: If a shard is missing or a rule is broken, naming the places, or another
            manifest is there already. Nothing is written then.
        ValueError: If the form is not known or a name is no plain file name.
    """
    folder, names = Path(folder), list(shard_names)
    files = {name: shard_file(name, form) for name in names}
    missing = [file for file in files.values() if not (folder / file).is_file()]
    if missing:
        raise CcropError(
            f"{folder} lacks {len(missing)} of {len(names)} shards, such as {missing[0]}. "
            "Run the same command again: it computes what is missing."
        )
    inspection = Inspection(form, provenance.fingerprint)
    problems = inspection.problems
    if len(files) < len(names):
        problems.append(Problem("B006", str(folder), "the same shard name is given twice"))
    problems += strays(folder, files.values())
    entries, counts = [], dict.fromkeys(STATUSES, 0)
    for name, file in files.items():
        table = inspection.shard(folder / file)
        if table is not None:
            digest = sha256_of(folder / file)
            size = (folder / file).stat().st_size
            entries.append(ShardEntry(name, file, len(table), size, digest))
            counts = {status: counts[status] + n for status, n in table.counts().items()}
    refuse(problems, f"No manifest was written to {folder}: put this right, then run again.")
    manifest = Manifest(provenance, form, tuple(entries), counts, sum(e.rows for e in entries))
    with written_aside(folder / MANIFEST) as aside:
        aside.write_text(manifest.to_text(), encoding="utf-8")
    return manifest


def read_manifest(folder: Path, problems: list[Problem]) -> Manifest | None:
    """Read `manifest.json`, adding to `problems` what breaks rules B001 to B006 and B008.

    Returns:
        The manifest, or None where it cannot be understood.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(Problem("B001", MANIFEST, f"no readable JSON: {error}"))
        return None
    # First the version: of another one, nothing else is known.
    data = data if isinstance(data, dict) else {}
    provenance = (
        provenance_from_json(data["ccrop"], MANIFEST, problems) if "ccrop" in data else None
    )
    if "ccrop" in data and provenance is None:
        return None
    try:
        entries, counts = _parse(data)
    except ValueError as error:
        problems.append(Problem("B001", MANIFEST, str(error)))
        return None
    if data["form"] not in FORMS:
        problems.append(Problem("B005", MANIFEST, f"the form is {data['form']!r}"))
        return None
    assert provenance is not None
    manifest = Manifest(provenance, data["form"], entries, counts, data["rows"])
    problems += [Problem("B006", MANIFEST, message) for message in _wrong_names(manifest)]
    total = sum(entry.rows for entry in entries)
    if manifest.rows != total:
        message = f"rows is {manifest.rows}, and the shards have {total}"
        problems.append(Problem("B008", MANIFEST, message))
    return manifest


def _parse(data: dict[str, Any]) -> tuple[tuple[ShardEntry, ...], dict[str, int]]:
    if set(data) != _FIELDS:
        raise ValueError(f"fields missing or not known: {sorted(set(data) ^ _FIELDS)}")
    counts, shards = data["counts"], data["shards"]
    if not isinstance(counts, dict) or set(counts) != set(STATUSES):
        raise ValueError(f"counts is {counts!r}, not an object of {STATUSES}")
    if any(type(number) is not int for number in (data["rows"], *counts.values())):
        raise ValueError(f"rows {data['rows']!r} or counts {counts!r} are not integers")
    if not isinstance(shards, list):
        raise ValueError(f"shards is {shards!r}, not a list")
    return tuple(typed(ShardEntry, shard) for shard in shards), counts


def _wrong_names(manifest: Manifest) -> list[str]:
    wrong, seen = [], set()
    for entry in manifest.shards:
        try:
            right = shard_file(entry.name, manifest.form)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if entry.file != right:
            wrong.append(f"the file of the shard {entry.name!r} is {entry.file!r}, not {right!r}")
        if entry.name in seen:
            wrong.append(f"the shard {entry.name!r} is listed twice")
        seen.add(entry.name)
    return wrong


def strays(folder: Path, files: Iterable[str]) -> list[Problem]:
    """Find finished shards of either form that are not among `files`; rule B010."""
    known = set(files)
    suffixes = tuple(form.suffix for form in FORMS.values())
    return [
        Problem("B010", path.name, "this shard does not belong to the box set")
        for path in sorted(folder.iterdir())
        if path.name.endswith(suffixes) and path.name[0] != "." and path.name not in known
    ]


def sha256_of(path: Path) -> str:
    """Hash a file; lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
