"""One shard of a box set: its file in either form, written, looked for and read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ccrop_pipeline.boxset import parquet_form, webdataset_form
from ccrop_pipeline.boxset.atomic import written_aside
from ccrop_pipeline.boxset.checks import check_rows
from ccrop_pipeline.boxset.provenance import Provenance, provenance_from_json
from ccrop_pipeline.boxset.rules import Problem, refuse
from ccrop_pipeline.boxset.table import BoxTable


@dataclass(frozen=True)
class Form:
    """A file form: suffix, and functions that write, read the provenance text, read the rows."""

    suffix: str
    write: Callable[[Path, BoxTable, Provenance], None]
    header: Callable[[Path, list[Problem]], str | None]
    load: Callable[[Path, list[Problem], bool], BoxTable | None]


FORMS = {
    "parquet": Form(".parquet", parquet_form.write, parquet_form.header, parquet_form.load),
    "webdataset": Form(
        ".boxes.tar", webdataset_form.write, webdataset_form.header, webdataset_form.load
    ),
}


def shard_file(name: str, form: str = "parquet") -> str:
    """Give the file name of a shard: `train-000042` is in `train-000042.parquet`.

    Raises:
        ValueError: If the form is not known or the name is no plain, visible file name.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {list(FORMS)}, not {form!r}")
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise ValueError(f"a shard name must be a plain file name, not {name!r}")
    return name + FORMS[form].suffix


def write_shard(
    folder: Path, name: str, table: BoxTable, provenance: Provenance, form: str = "parquet"
) -> None:
    """Write one shard, wholly or not at all; make the folder if need be.

    Args:
        folder: The box set.
        name: Stem of the source shard, such as `train-000042`.
        table: Its rows, in source order.
        provenance: What made the boxes.
        form: `parquet` or `webdataset`.

    Raises:
        CcropError: If rows break a rule, or the shard is there already with other content.
        ValueError: If the form is not known or the name is no plain file name.
    """
    path = Path(folder) / shard_file(name, form)
    refuse(check_rows(table, path.name), "The shard was not written: put these rows right.")
    if form == "webdataset":
        remedy = "Write the Parquet form, or pack the images under other keys."
        refuse(webdataset_form.check_keys(table, path.name), remedy)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        FORMS[form].write(aside, table, provenance)


def shard_is_complete(
    folder: Path, name: str, provenance: Provenance, form: str = "parquet"
) -> bool:
    """Tell whether a shard of this provenance is there and need not be computed again.

    Raises:
        CcropError: If the file is damaged or of another provenance.
        ValueError: If the form is not known or the name is no plain file name.
    """
    path = Path(folder) / shard_file(name, form)
    if not path.exists():
        return False
    problems: list[Problem] = []
    check_provenance(path, form, provenance.fingerprint, problems)
    refuse(problems, f"{path} is not a shard of these boxes: delete it or choose another folder.")
    return True


def read_provenance(path: Path, form: str, problems: list[Problem]) -> Provenance | None:
    """Read what made a shard, adding to `problems` what breaks rules B002 to B004, B011, B012."""
    text = FORMS[form].header(path, problems)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except ValueError as error:
        problems.append(Problem("B012", path.name, f"the entry `ccrop` is not JSON: {error}"))
        return None
    return provenance_from_json(data, path.name, problems)


def check_provenance(path: Path, form: str, fingerprint: str, problems: list[Problem]) -> None:
    """Compare a shard's fingerprint with the one expected; rule B013 and those of reading."""
    found = read_provenance(path, form, problems)
    if found is not None and found.fingerprint != fingerprint:
        message = f"made by {found.to_json()}, fingerprint not {fingerprint}"
        problems.append(Problem("B013", path.name, message))
