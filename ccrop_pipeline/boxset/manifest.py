"""The manifest: what a box set consists of. It is written last, so it marks completeness."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ccrop_pipeline.base import BoxFolder
from ccrop_pipeline.base.addresses import UnreachableError
from ccrop_pipeline.base.files import sha256_of
from ccrop_pipeline.base.values import from_plain, parse_json, to_plain
from ccrop_pipeline.boxset.provenance import (
    FORMAT,
    Provenance,
    is_known_version,
    provenance_from_text,
)
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.shards import DATA, FORMS, shard_file
from ccrop_pipeline.boxset.statistics import BoxStatistics
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import CcropError, counted

MANIFEST = "manifest.json"
CARD = "README.md"
CROISSANT = "croissant.json"  # metadata for data catalogues, where somebody exported them
_MAX_BYTES = 1 << 30  # a million shards have about 200 MB


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
    message = f"{counted(len(table), 'row')}, and {entry.rows} in the manifest"
    return [Problem("B008", entry.file, message)]


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

    Raises:
        UnreachableError: If the store cannot be asked.
    """
    try:
        data = _parsed(folder)
        # First the version: of another one, nothing else is known.
        if not is_known_version(data, MANIFEST, problems):
            return None
        stored = from_plain(_Stored, data, complete=True, ignore_unknown=True)
        shards = _entries(data.get("shards"))
        _expect_counts(stored, shards)
    except UnreachableError:  # which is no fault of the box set
        raise
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


def _parsed(folder: BoxFolder) -> dict[str, Any]:
    if not folder.has(MANIFEST):  # nor is a FIFO opened
        raise ValueError("there is no such file")
    with folder.local(MANIFEST) as path:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes, more than any box set needs")
        data = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return data


def _entries(shards: Any) -> tuple[ShardEntry, ...]:
    # By hand: for a hundred thousand shards, `from_plain` takes seconds.
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise ValueError("shards is not a list of objects")
    entries = tuple(ShardEntry(*map(shard.get, ShardEntry._fields)) for shard in shards)
    for number, entry in enumerate(entries):
        if (*map(type, entry),) != (str, str, int, int, str):
            raise ValueError(f"shard {number}: a field is missing or of a wrong type in {entry}")
    return entries


def _expect_counts(stored: _Stored, shards: Iterable[ShardEntry]) -> None:
    found = stored.statistics
    counts = {"rows": stored.rows, "nearly_full": found.nearly_full, "full": found.full}
    counts |= {f"counts.{status}": number for status, number in found.counts.items()}
    counts |= {f"area_histogram[{at}]": number for at, number in enumerate(found.area_histogram)}
    for number, entry in enumerate(shards):
        counts |= {f"rows of shard {number}": entry.rows, f"bytes of shard {number}": entry.bytes}
    for name, count in counts.items():
        if not 0 <= count < 1 << 53:  # above, many readers of JSON round
            raise ValueError(f"{name} is {count}; it must be from 0 to 2**53 - 1")


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
