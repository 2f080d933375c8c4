"""Judging shards one after the other, with what must hold across them."""

from pathlib import Path

from ccrop_pipeline.boxset.checks import check_rows
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.shards import FORMS, check_provenance
from ccrop_pipeline.boxset.table import BoxTable


class Inspection:
    """Collects every breach of the rules in the shards that it is shown.

    Takes about 200 bytes of memory a row, for the keys.

    Args:
        form: `parquet` or `webdataset`.
        fingerprint: The one that all shards must have.

    Attributes:
        problems: All breaches found so far.
    """

    def __init__(self, form: str, fingerprint: str) -> None:
        self.problems: list[Problem] = []
        self._form = form
        self._fingerprint = fingerprint
        self._file_of_key: dict[str, str] = {}
        self._grid: tuple[str, tuple[int, int] | None] | None = None

    def shard(self, path: Path) -> BoxTable | None:
        """Judge one shard and give its rows, or None where they cannot be read."""
        found: list[Problem] = []
        check_provenance(path, self._form, self._fingerprint, found)
        readable = all(problem.rule != "B011" for problem in found)
        table = FORMS[self._form].load(path, found, True) if readable else None
        if table is not None:
            found += check_rows(table, path.name)
            self._check_keys(table, path.name)
            if not {"B014", "B024"}.intersection(problem.rule for problem in found):
                self._check_grid(table, path.name)
        self.problems += found
        return table

    def _check_keys(self, table: BoxTable, file: str) -> None:
        for row, key in enumerate(table.keys):
            first = self._file_of_key.setdefault(key, file)
            if first != file:
                message = f"the key {key!r} stands in {first} as well"
                self.problems.append(Problem("B018", f"{file} row {row}", message))

    def _check_grid(self, table: BoxTable, file: str) -> None:
        if not len(table):
            return
        if self._grid is None:
            self._grid = file, table.heatmap_shape
        first, shape = self._grid
        if table.heatmap_shape != shape:
            message = f"heatmaps of {table.heatmap_shape} cells, and of {shape} in {first}"
            self.problems.append(Problem("B024", file, message))
