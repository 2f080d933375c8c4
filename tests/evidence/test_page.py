"""The page says what the results say, all of it, and shows what is missing."""

import pytest
from made_results import made

from benchmarks.evidence.arms import SEEDS, STUDIES
from benchmarks.evidence.page import PAGE, RESULTS, page
from benchmarks.evidence.results import read_results


def _row(text, title, table="### Accuracy"):
    lines = text[text.index(table) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_what_the_committed_results_give():
    assert page(read_results(RESULTS)) == PAGE.read_text()


def test_every_study_with_results_has_its_picture():
    studies = {result["study"] for result in read_results(RESULTS)}
    assert studies
    assert all((RESULTS.parent / f"evidence-{study}.svg").is_file() for study in studies)


def test_a_row_has_each_seed_the_mean_and_the_paired_difference():
    results = [made(seed=s, knn=v, linear=0.6) for s, v in enumerate((0.50, 0.52, 0.54))]
    results += [
        made(arm="overlap", seed=s, knn=v, linear=0.5) for s, v in enumerate((0.53, 0.54, 0.55))
    ]
    assert _row(page(results), "boxes, `overlap`") == [
        "boxes, `overlap`",
        "53.00 54.00 55.00",
        "54.00 ± 1.00",
        "+2.00 ± 0.58",
        "3 of 3",
        "50.00 ± 0.00",
        "-10.00 ± 0.00",
    ]


def test_a_missing_arm_and_a_missing_seed_are_shown_as_missing():
    text = page([made(), made(seed=2), made(arm="overlap", seed=2)])
    assert _row(text, "fixed centre box, `overlap`")[1] == "missing"
    assert _row(text, "boxes, `overlap`")[1] == "missing missing 50.00"
    assert (
        _row(text, "an image's own box beside the centre box, `overlap`", "### Paired")[1]
        == "missing"
    )
    wanted = sum(len(study.arms) for study in STUDIES.values()) * len(SEEDS)
    assert f"3 of {wanted} runs" in text


def test_every_arm_stands_in_the_tables_whatever_was_run():
    text = page([made(study=name) for name in STUDIES])
    for study in STUDIES.values():
        part = text[text.index(f"## {study.title}") :]
        for arm in study.arms.values():
            assert _row(part, arm.title)[0] == arm.title


def test_a_study_without_any_run_says_so():
    text = page([made()])
    assert "## CIFAR-10\n\nNot run yet." in text


def test_the_cost_is_seconds_of_refreshes_by_seconds_of_training():
    text = page([made(), made(arm="paper")])
    assert _row(text, "Off-centre scenes", "## What the alternation costs")[3:] == [
        "50",
        "5.0",
        "2",
        "0.100",
    ]


@pytest.mark.slow
def test_the_picture_names_the_arms_that_were_run_and_is_the_same_again(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.evidence.pictures import learning_curves

    results = [made(), made(arm="overlap")]
    for name in ("a.svg", "b.svg"):
        learning_curves(STUDIES["scenes"], results, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "boxes, overlap" in text
    assert "fixed centre box" not in text


def test_questions_and_sweeps_name_arms_that_there_are():
    for study in STUDIES.values():
        named = {arm for _, *pair in study.contrasts for arm in pair}
        named |= {arm for values in study.sweeps.values() for arm in values.values()}
        assert named <= set(study.arms)


def _photographs(arm, knns, held, quarter=0.25):
    def sizes():
        return [{"largest": at / 4, "images": 5, "knn": quarter, "linear": 0.5} for at in range(4)]

    return [
        made("tiny", arm, seed, knn, held={"images": 30, "knn": held}, by_size=sizes())
        for seed, knn in enumerate(knns)
    ]


def test_all_are_compared_with_the_tuned_arm_that_is_best_on_held_out_images():
    # On the test images the first is better, which must not count.
    results = _photographs("random", (0.40, 0.42, 0.44), held=0.30)
    results += _photographs("random-0.5", (0.30, 0.32, 0.34), held=0.35)
    results += _photographs("true", (0.41, 0.42, 0.43), held=0.1)
    text = page(results)
    assert _row(text, "true boxes, `paper`", "## Photographs")[3:5] == ["+10.00 ± 0.58", "3 of 3"]
    assert _row(text, "random crops, scale from 0.5", "## Photographs")[3:5] == ["", ""]
    tuning = " ".join(text.split())
    assert "compared with random crops, scale from 0.5: the best of 3" in tuning
    assert "random crops, 30.00 ± 0.00; random crops, scale from 0.5, 35.00 ± 0.00." in tuning


def test_a_quarter_by_size_has_the_difference_of_the_same_quarter():
    results = _photographs("random", (0.4, 0.4), held=0.3)
    results += _photographs("true", (0.4, 0.4), held=0.3, quarter=0.5)
    for result in results:
        result["by_size"][2]["knn"] = 0.1 * (1 + result["seed"] * (result["arm"] == "true"))
    text = page(results)
    assert _row(text, "random crops", "| kNN, true box")[1:] == [
        "25.00 ± 0.00",
        "25.00 ± 0.00",
        "10.00 ± 0.00",
        "25.00 ± 0.00",
    ]
    assert _row(text, "true boxes, `paper`", "| kNN, true box")[1:] == [
        "+25.00 ± 0.00",
        "+25.00 ± 0.00",
        "+5.00 ± 5.00",
        "+25.00 ± 0.00",
    ]


def test_a_self_set_rule_says_how_many_sets_it_called_worth_nothing():
    fit = {"area": 0.5, "full": 0.25, "iou": 0.4, "found": 0.3, "threshold": 0.2}
    results = [
        made("tiny", "self-set", seed, boxes=[{**fit, "worthless": each} for each in (1, 0, seed)])
        for seed in (0, 1)
    ]
    boxes = "the encoder at 20, 40, 60 and 80 % of training, self-set rule, by which 3 of 6 sets"
    assert _row(page(results), f"{boxes} are worth nothing", "### Boxes")[1] == "50.0 %"


def test_every_picture_shows_arms():
    for picture in sorted(RESULTS.parent.glob("evidence-*.svg")):
        study = STUDIES[picture.stem.removeprefix("evidence-")]
        titles = [arm.title.replace("`", "") for arm in study.arms.values()]
        assert sum(f">{title}<" in picture.read_text() for title in titles) >= 2, picture.name
