"""One shard of a box set: its file in either form, written, looked for and read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ccrop_pipeline.base import BoxFolder, Location, open_folder
from ccrop_pipeline.base.files import TargetTakenError
from ccrop_pipeline.base.tars import BOX_TAR, name_in_tar
from ccrop_pipeline.base.values import parse_json
from ccrop_pipeline.boxset import parquet_form, webdataset_form
from ccrop_pipeline.boxset.provenance import (
    LIBRARIES,
    TEXT,
    Entries,
    Provenance,
    provenance_from_text,
)
from ccrop_pipeline.boxset.rules import Problem, check_rows, refuse
from ccrop_pipeline.boxset.table import BoxTable
from ccrop_pipeline.errors import BoxSetError, SettingError


@dataclass(frozen=True)
class Form:
    """A file form: suffix, and functions that write, read the texts of its head, or all of it."""

    suffix: str
    write: Callable[[Path, BoxTable, Provenance], None]
    entries: Callable[[Path, list[Problem]], Entries | None]
    load: Callable[..., tuple[Entries | None, BoxTable | None]]


FORMS = {
    "parquet": Form(".parquet", parquet_form.write, parquet_form.entries, parquet_form.load),
    "webdataset": Form(
        BOX_TAR, webdataset_form.write, webdataset_form.entries, webdataset_form.load
    ),
}


# A folder of their own: readers of Parquet folders take every file in one for Parquet.
DATA = "data"


def data_folder(folder: Location) -> BoxFolder:
    """Open the folder in which a box set has its shards."""
    return open_folder(folder).inside(DATA)


def shard_file(name: str, form: str = "parquet") -> str:
    """Return the file name of a shard: `train-000042` is in `train-000042.parquet`.

    Raises:
        SettingError: If the form is not known or the name is no plain, visible file name.
    """
    if form not in FORMS:
        raise SettingError(f"form is {form!r}; it must be one of {list(FORMS)}.")
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise SettingError(f"a shard is named {name!r}; it must be a plain file name.")
    return name + FORMS[form].suffix


def write_shard(
    folder: Location, name: str, table: BoxTable, provenance: Provenance, *, form: str = "parquet"
) -> None:
    """Write one shard, wholly or not at all; make the folder if need be.

    The WebDataset form has keys of a folder as its tars have them, by which they are found as well.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        name: Stem of the source shard, such as `train-000042`.
        table: Its rows, in source order.
        provenance: What made the boxes.
        form: `parquet` or `webdataset`.

    Raises:
        BoxSetError: If rows break a rule, or the shard is there already with other content.
        SettingError: If the form is not known or the name is no plain file name.
    """
    file = shard_file(name, form)
    refuse(check_rows(table, file), "The shard was not written: put these rows right.")
    if form == "webdataset":
        table = replace(table, keys=keys_in_tars(table.keys, file))
        remedy = "Write the Parquet form, or pack the images under other keys."
        refuse(webdataset_form.check_keys(table, file), remedy)
    with data_folder(folder).written(file) as path:
        FORMS[form].write(path, table, provenance)


def keys_in_tars(keys: Iterable[str], where: Location) -> list[str]:
    """Return keys of a folder as its tars have them.

    Args:
        keys: Of one shard, or of all images.
        where: What the error calls the place that they are for.

    Raises:
        BoxSetError: If two of them would be one.
    """
    key_of: dict[str, str] = {}
    for key in keys:
        if (other := key_of.setdefault(name_in_tar(key), key)) != key:
            raise BoxSetError(
                f"the keys {other!r} and {key!r} would both be {name_in_tar(key)!r} in {where} "
                "(rule B018). Write the Parquet form, or rename one of the images."
            )
    return [*key_of]


def write_shard_once(
    folder: Location, name: str, table: BoxTable, provenance: Provenance, *, form: str = "parquet"
) -> bool:
    """Write one shard unless another process wrote it meanwhile: the first one stays.

    Two kinds of device round differently, so the same work may give other bytes.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        name: Stem of the source shard, such as `train-000042`.
        table: Its rows, in source order.
        provenance: What made the boxes.
        form: `parquet` or `webdataset`.

    Returns:
        Whether the shard has these rows now, to the bit; if not, it has those of the other.

    Raises:
        BoxSetError: If rows break a rule, or the shard there is damaged or of another provenance.
        SettingError: If the form is not known or the name is no plain file name.
    """
    try:
        write_shard(folder, name, table, provenance, form=form)
    except TargetTakenError:
        if not shard_is_complete(folder, name, provenance, form=form):  # a folder has its name
            raise
        return False
    return True


def missing_shards(folder: Location, names: Iterable[str], *, form: str = "parquet") -> list[str]:
    """Return those of the shards `names` that are not there, from one listing of the folder."""
    there = data_folder(folder).files()
    return [name for name in names if shard_file(name, form) not in there]


def shard_is_complete(
    folder: Location, name: str, provenance: Provenance, *, form: str = "parquet"
) -> bool:
    """Tell whether a shard of this provenance is there and need not be computed again.

    Raises:
        BoxSetError: If the file is damaged or of another provenance.
        SettingError: If the form is not known or the name is no plain file name.
    """
    data, file = data_folder(folder), shard_file(name, form)
    if not data.has(file):
        return False
    problems: list[Problem] = []
    found = shard_provenance(folder, name, problems, form=form)
    refuse(problems, f"{data}/{file} is damaged: delete it, or choose another folder.")
    changed = found.differences(provenance) if found else []
    if changed:
        raise BoxSetError(
            f"{folder} holds boxes that were made in another way ({file}, B013):\n  "
            + "\n  ".join(changed)
            + "\nRepeat what made them to go on with them, choose another folder, or delete it."
        )
    return True


def shard_provenance(
    folder: Location, name: str, problems: list[Problem], *, form: str = "parquet"
) -> Provenance | None:
    """Read what made a shard that is there, adding to `problems` what breaks a rule of its head."""
    data, file = data_folder(folder), shard_file(name, form)
    with data.local(file) as path:
        entries = FORMS[form].entries(path, problems)
    return None if entries is None else _provenance(entries, file, problems)


def load_shard(
    path: Path, form: str, fingerprint: str, problems: list[Problem], *, heatmaps: bool = True
) -> BoxTable | None:
    """Read a shard, adding to `problems` what breaks a rule of its file or B013.

    Args:
        path: A local path, of the name that the file has in the box set.
        form: `parquet` or `webdataset`.
        fingerprint: The one that it must have.
        problems: Where breaches are added.
        heatmaps: Read the heatmaps as well, if there are any.

    Returns:
        Its rows, or None where they cannot be read.
    """
    entries, table = FORMS[form].load(path, problems, heatmaps=heatmaps)
    found = None if entries is None else _provenance(entries, path.name, problems)
    if found is not None and found.fingerprint != fingerprint:
        message = f"the fingerprint is {found.fingerprint}, not {fingerprint}"
        problems.append(Problem("B013", path.name, message))
    return table


def _provenance(entries: Entries, where: str, problems: list[Problem]) -> Provenance | None:
    """Read what made a shard; rules B002, B003 and B012."""
    if missing := [name for name in (TEXT, LIBRARIES) if name not in entries]:
        message = f"there is no entry {' or '.join(missing)} in its head"
        problems.append(Problem("B012", where, message))
        return None
    try:
        libraries = parse_json(entries[LIBRARIES])
    except ValueError as error:
        problems.append(Problem("B003", where, f"{LIBRARIES}: {error}"))
        return None
    return provenance_from_text(entries[TEXT], libraries, where, problems)
