"""The corpus of small hostile box sets, for our reader and for one of pyarrow alone."""

import json
from pathlib import Path

import pytest
import second_reader

from ccrop_pipeline.boxset import RULES, BoxSet, validate
from ccrop_pipeline.errors import BoxSetError

CORPUS = Path(__file__).parent / "corpus"
CASES = json.loads((CORPUS / "corpus.json").read_text("utf-8"))
# No box depends on them, so that `BoxSet` leaves them to `validate`.
LEFT_TO_VALIDATE = {"B009", "B010", "B024"}
LEFT_OUT = {"B015", "B026", "B027", "B032"}  # see build_corpus.py


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_each_is_refused_for_the_rule_that_it_breaks(case):
    folder, rule = CORPUS / case["name"], case["rule"]
    assert {problem.rule for problem in validate(folder)} == {rule}
    if rule not in LEFT_TO_VALIDATE:
        with pytest.raises(BoxSetError):
            use_all(folder)
    if case["form"] == "parquet":
        with pytest.raises(second_reader.Broken, match=rule):
            list(second_reader.read(folder))


def use_all(folder):
    boxes = BoxSet.open(folder)
    list(boxes.tables())
    boxes.lookup()


def test_the_corpus_is_complete_and_small():
    assert {case["rule"] for case in CASES} | LEFT_OUT == set(RULES)
    folders = {path.name for path in CORPUS.iterdir() if path.is_dir()}
    assert folders == {case["name"] for case in CASES}
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 500_000
