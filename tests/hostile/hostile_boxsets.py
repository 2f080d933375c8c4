"""Hostile box sets: manifests, shards of both forms, caches and folders, by seed.

Hashes and sizes are put right after the damage, so that more than the first check is reached. The
long run: `python tests/hostile/hostile_boxsets.py 4000`.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from damaging import changed, garbled
from hostile_shards import (
    NAMES,
    PROVENANCE,
    SUFFIX,
    Hostile,
    columns,
    parquet_bytes,
    samples,
    shard_bytes,
)
from judging import WrongError, counted, judged, main

from ccrop_pipeline.boxset import BoxSet, convert, left_to_write, validate, write_manifest
from ccrop_pipeline.errors import BoxSetError

# No box depends on them; `BoxSet` leaves them to `validate`.
LEFT_TO_VALIDATE = {"B009", "B010", "B015", "B024", "B025"}


def _manifest(rng: Random, folder: Path) -> Path:
    hostile = Hostile(rng)
    value = hostile.manifest()
    for _ in range(rng.randrange(1, 3)):
        value = changed(rng, value)
    hostile.say(value)
    return hostile.write(folder)


def _manifest_bytes(rng: Random, folder: Path) -> Path:
    hostile = Hostile(rng)
    hostile.files["manifest.json"] = garbled(rng, hostile.files["manifest.json"])
    return hostile.write(folder)


def _provenance(rng: Random, folder: Path) -> Path:
    """Another text in all files, with its right fingerprint."""
    hostile = Hostile(rng, "parquet")
    text = json.dumps(changed(rng, json.loads(PROVENANCE.text)), ensure_ascii=False)
    libraries = json.dumps(changed(rng, {"torch": "2", "numpy": "3"}))
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        data = garbled(rng, data)
    for name in NAMES:
        hostile.shard = f"data/{name}.parquet"
        table = pq.read_table(io.BytesIO(hostile.files[hostile.shard]))
        hostile.put(
            parquet_bytes(
                table.replace_schema_metadata({"ccrop": data, "ccrop_libraries": libraries})
            )
        )
    manifest = hostile.manifest()
    manifest["provenance"] = data.decode("utf-8", "replace")
    manifest["fingerprint"] = hashlib.sha256(data).hexdigest()
    hostile.say(manifest)
    return hostile.write(folder)


def _cache(rng: Random, folder: Path) -> Path:
    hostile = Hostile(rng)
    boxes = hostile.write(folder)
    path = BoxSet.open(boxes).lookup().path
    data = path.read_bytes()
    path.write_bytes(garbled(rng, data))
    if rng.random() < 0.1:
        path.unlink()
        rng.choice([lambda: path.symlink_to(path), lambda: os.mkfifo(path)])()
    (boxes / ".cache").mkdir()
    (boxes / ".cache" / path.name).write_bytes(garbled(rng, data))
    return boxes


def _names(rng: Random, folder: Path) -> Path:
    """A folder with entries of other kinds than files, and names of other kinds than text."""
    hostile = Hostile(rng)
    boxes = hostile.write(folder)
    path = boxes / rng.choice(
        [hostile.shard, "manifest.json", "README.md", "data", "data/x.parquet", ".cache", "data/y"]
    )
    if rng.random() < 0.1:
        path = Path(os.fsdecode(os.fsencode(boxes) + b"/data/\xff.parquet"))
    if path.name == "data":
        path.rename(boxes / "elsewhere")
    else:
        path.unlink(missing_ok=True)
    makers: list[Callable[[], Any]] = [
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path),
        lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("nowhere"),
        lambda: path.write_bytes(b""), lambda: path.symlink_to(boxes), lambda: None,
    ]  # fmt: skip
    rng.choice(makers)()
    return boxes


def use(folder: Path) -> None:
    """Read a box set in every way; raise whatever goes wrong.

    Raises:
        WrongError: If boxes are taken from a set that `validate` refuses, or a cache gives others.
    """
    validate(folder)
    _complete(folder)
    found = {problem.rule for problem in validate(folder)}
    boxes = BoxSet.open(folder)
    tables = [table for _, table in boxes.tables()]
    keys = [key for table in tables for key in table.keys]
    expected = np.concatenate([np.empty((0, 4), np.float32), *(table.boxes for table in tables)])
    if not np.array_equal(boxes.find(keys), expected) or len(boxes) != len(keys):
        raise WrongError("other boxes by key")
    boxes.choices(keys)
    if keys:
        _ = boxes[keys[-1]]
    if believed := found - LEFT_TO_VALIDATE - {"B032"}:
        raise WrongError(f"believed in spite of {sorted(believed)}")
    if not found:
        convert(folder, folder.parent / "out", form="parquet")


def _complete(folder: Path) -> None:
    """Go on with the shards that are there, as after a kill: done, or refused."""
    for form in SUFFIX:
        with suppress(BoxSetError):
            left_to_write(folder, NAMES, PROVENANCE, form=form)
            write_manifest(folder, NAMES, PROVENANCE, form=form)


KINDS: dict[str, Callable[[Random, Path], Path]] = {
    "manifest": _manifest,
    "manifest, its bytes": _manifest_bytes,
    "provenance": _provenance,
    "shards, their bytes": shard_bytes,
    "Parquet columns": columns,
    "WebDataset members": samples,
    "lookup cache": _cache,
    "folder": _names,
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken`, `refused` by a message that names a file of the box set; else what went wrong."""
    boxes = KINDS[kind](Random(f"{kind} {seed}"), folder)
    return judged(lambda: use(boxes), ["manifest.json", "s-0", "s-1", str(boxes)])


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    with TemporaryDirectory() as caches:
        os.environ["XDG_CACHE_HOME"] = caches
        main(KINDS, verdicts)
