"""The file of results keeps every result, whatever is added and however often."""

import json
import multiprocessing

import pytest
from made_results import made

from benchmarks.evidence.results import add_results, identity, read_results


def test_results_are_a_line_each_by_study_arm_and_seed(tmp_path):
    file, results = tmp_path / "all.jsonl", [made(seed=seed) for seed in (10, 9)]
    results += [made(study="cifar10", arm="paper"), made(arm="overlap", knn=1 / 3)]
    for result in results:
        add_results(file, [result])
    in_order = [results[2], results[3], results[1], results[0]]
    assert [json.loads(line) for line in file.read_text().splitlines()] == in_order
    assert read_results(file) == in_order
    before = file.read_bytes()
    add_results(file, results)
    assert file.read_bytes() == before


def test_a_result_of_the_same_seed_takes_the_place_of_the_old_one(tmp_path):
    file = tmp_path / "all.jsonl"
    add_results(file, [made(seed=0, knn=0.1), made(seed=1, knn=0.2)])
    add_results(file, [made(seed=0, knn=0.3)])
    assert [result["knn"] for result in read_results(file)] == [0.3, 0.2]


def test_there_are_no_results_before_the_first(tmp_path):
    assert read_results(tmp_path / "all.jsonl") == []


def test_a_damaged_file_is_not_written_over(tmp_path):
    file = tmp_path / "all.jsonl"
    add_results(file, [made(seed=0), made(seed=1)])
    file.write_bytes(file.read_bytes()[:-20])
    before = file.read_bytes()
    with pytest.raises(json.JSONDecodeError):
        add_results(file, [made(seed=2)])
    assert file.read_bytes() == before


def _add(file, seeds):
    for seed in seeds:
        add_results(file, [made(seed=seed)])


def test_processes_that_add_at_once_lose_nothing(tmp_path):
    file, portions = tmp_path / "all.jsonl", [range(first, 80, 4) for first in range(4)]
    context = multiprocessing.get_context("fork")
    adding = [context.Process(target=_add, args=(file, seeds)) for seeds in portions]
    for process in adding:
        process.start()
    for process in adding:
        process.join()
    assert [identity(r)[2] for r in read_results(file)] == list(range(80))


def test_the_committed_results_stand_as_they_would_be_written(tmp_path):
    from benchmarks.evidence.page import RESULTS

    add_results(tmp_path / "again.jsonl", read_results(RESULTS))
    assert (tmp_path / "again.jsonl").read_bytes() == RESULTS.read_bytes()
