"""Judging shards one after the other, with what must hold across them."""

from array import array
from pathlib import Path

import numpy as np

from ccrop_pipeline.base import BoxFolder
from ccrop_pipeline.boxset.rules import Problem, check_rows
from ccrop_pipeline.boxset.shards import FORMS, load_shard
from ccrop_pipeline.boxset.statistics import BoxTally
from ccrop_pipeline.boxset.table import BoxTable


class Inspection:
    """Collects every breach of the rules in the shards that it is shown, and their statistics.

    Takes 8 to 9 bytes of memory a row, for the hashes of the keys.

    Args:
        folder: The box set.
        form: `parquet` or `webdataset`.
        fingerprint: The one that all shards must have.
    """

    def __init__(self, folder: BoxFolder, form: str, fingerprint: str) -> None:
        self._problems: list[Problem] = []
        self._folder = folder
        self._form = form
        self._fingerprint = fingerprint
        self._files: list[str] = []
        # Not a list of arrays: it grows in place and is sorted in place.
        self._hashes = array("q")
        self._grid: tuple[str, tuple[int, int] | None] | None = None
        self._choices: tuple[str, bool] | None = None
        self.tally = BoxTally()

    def shard(self, path: Path) -> BoxTable | None:
        """Judge one shard and return its rows, or None where they cannot be read.

        Args:
            path: A local path, of the name that the file has in the box set.
        """
        found: list[Problem] = []
        table = load_shard(path, self._form, self._fingerprint, found)
        if table is not None:
            found += check_rows(table, path.name)
            self._files.append(path.name)
            # What is no number has no area; it breaks a rule of its own.
            if not found:
                self.tally.add(table)
            # Python's own hash of text has 64 bits and is the fastest at hand.
            self._hashes.extend(map(hash, table.keys))
            if not {"B014", "B024"}.intersection(problem.rule for problem in found):
                self._check_grid(table, path.name)
                self._check_choices(table, path.name)
        self._problems += found
        return table

    def problems(self) -> list[Problem]:
        """Judge what needs all shards, and return all breaches found."""
        hashes = np.frombuffer(self._hashes, np.int64)
        hashes.sort()
        twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        return self._problems + (self._equal_keys(twice) if twice else [])

    def _equal_keys(self, hashes: set[int]) -> list[Problem]:
        # Equal hashes need not be equal keys, so the few keys in question are read again.
        problems, file_of_key = [], dict[str, str]()
        for file in self._files:
            with self._folder.local(file) as path:
                _, table = FORMS[self._form].load(path, [], heatmaps=False)
            for row, key in enumerate(table.keys if table else ()):
                first = file_of_key.setdefault(key, file) if hash(key) in hashes else file
                if first != file:
                    message = f"the key {key!r} occurs in {first} as well"
                    problems.append(Problem("B018", f"{file} row {row}", message))
        return problems

    def _check_grid(self, table: BoxTable, file: str) -> None:
        if not len(table):
            return
        if self._grid is None:
            self._grid = file, table.heatmap_shape
        first, shape = self._grid
        if table.heatmap_shape != shape:
            message = f"heatmaps of {table.heatmap_shape} cells, and of {shape} in {first}"
            self._problems.append(Problem("B024", file, message))

    def _check_choices(self, table: BoxTable, file: str) -> None:
        if not len(table):
            return
        has = table.choices is not None
        if self._choices is None:
            self._choices = file, has
        first, expected = self._choices
        if has != expected:
            without, other = (first, file) if has else (file, first)
            message = f"{without} has no choices, and {other} has"
            self._problems.append(Problem("B028", file, message))
