"""Write the corpus of small hostile box sets: python tests/hostile/build_corpus.py FOLDER.

Each breaks one rule, and `corpus.json` says which and how. Any reader of the format can be tried
on them: it should refuse each, or at least take no box from it.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "boxset"))

import test_rules
from raw_boxset import RawSet

from ccrop_pipeline.boxset import validate

# Of the images, of a machine, or, as B015, of no small file.
LEFT_OUT = {"B015", "B026", "B027", "B032"}
# Cases of each rule.
EACH = {"parquet": 2, "webdataset": 1}
OF_TARS = {"B011", "B012", "B013", "B014", "B016", "B017", "B019", "B020", "B024", "B028"}


def bomb(n: int, **changes: str) -> Any:
    def say(manifest: dict[str, Any]) -> None:
        manifest["rows"] = manifest["shards"][0]["rows"] = n

    def edit(raw: RawSet) -> None:
        del raw.shards["a-1"]
        raw.edit_table = lambda table: test_rules.repeated(table, n, **changes)
        raw.edit_manifest = say

    return edit


def nested(raw: RawSet) -> None:
    def change(folder: Path) -> None:
        text = (folder / "manifest.json").read_text("utf-8")
        (folder / "manifest.json").write_text(text[:-1] + ', "x": ' + "[" * 5_000, "utf-8")

    raw.edit_folder = change


MORE = [
    ("B001", "parquet", nested),
    ("B001", "parquet", test_rules.manifest(lambda data: data.update(rows=10**400))),
    ("B001", "parquet", test_rules.manifest(lambda data: data["shards"][0].update(bytes=-1))),
    ("B011", "parquet", bomb(100_000)),  # rows that the bytes cannot hold
    ("B018", "parquet", bomb(2_000, key="k" * 200_000)),  # 400 MB of text
]


def main(out: Path) -> None:
    """Write all cases and the list of them."""
    numbers, listed = Counter[str](), []
    for rule, form, edit in [*_of_the_rules(), *MORE]:
        numbers[f"{rule}-{form}"] += 1
        name = f"{rule}-{form}-{numbers[f'{rule}-{form}']}"
        said = _written(out / name, rule, form, edit)
        listed.append({"name": name, "rule": rule, "form": form, "said": said})
    text = json.dumps(listed, indent=1, ensure_ascii=False)
    (out / "corpus.json").write_text(text + "\n", "utf-8")


def _of_the_rules() -> Iterator[tuple[str, str, test_rules.Edit]]:
    taken = Counter[str]()
    for rule, forms, edit in test_rules.INVALID:
        for form in forms:
            wanted = form == "parquet" or rule in OF_TARS
            if wanted and rule not in LEFT_OUT and taken[f"{rule}-{form}"] < EACH[form]:
                taken[f"{rule}-{form}"] += 1
                yield rule, form, edit


def _written(folder: Path, rule: str, form: str, edit: test_rules.Edit) -> str:
    for shards in (1, 2):  # one shard where that shows it
        raw = RawSet(form)
        if shards == 1:
            del raw.shards["a-1"]
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(LookupError, OSError, StopIteration, ValueError):  # it needs two
            edit(raw)
            raw.write(folder)
            found = validate(folder)
            if {problem.rule for problem in found} == {rule}:
                return str(found[0])
    raise AssertionError(f"{folder.name} breaks other rules: {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
