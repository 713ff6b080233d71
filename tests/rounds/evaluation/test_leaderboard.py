"""Leaderboard, promotion and verdict on scores whose means and differences are known."""

from __future__ import annotations

import csv
import itertools
import json
import re

import pandas as pd
import pyarrow as pa
import pytest
from helpers.image_scores import CLASSES, CONFIG, HIGH, LOW, MIXED, scores

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, find, read_evaluations, write_evaluations
from cellsemi.rounds.evaluation.figures import FIGURES, Figure, map_difference
from cellsemi.rounds.evaluation.leaderboard import Row, baseline_name, column_name, display_rows, make_row, recommend
from cellsemi.rounds.evaluation.metrics import on_common
from cellsemi.rounds.evaluation.promotion import Decision, decide, needed_probability
from cellsemi.rounds.evaluation.verdict import AgainstControl, verdict
from cellsemi.rounds.store.run import RunPaths

COUNTS = {"accepted": 5, "ignored": 3, "rejected": 2}


def evaluation(passed, split="test", *, round=0, model="ensemble", threshold=0.5, classes=None):
    return Evaluation(round, model, split, Cutoffs.same(threshold, len(CLASSES)), scores(passed, classes))


def row(test, *, round=0, model="ensemble", baseline=None, control=None, promoted=True, val=None, classes=None):
    of = {"round": round, "model": model, "threshold": 0.25, "classes": classes}
    return make_row(
        evaluation(val or test, "val", **of),
        evaluation(test, **of),
        baseline=None if baseline is None else evaluation(baseline, classes=classes),
        control=None if control is None else evaluation(control, model="control", classes=classes),
        classes=CLASSES,
        counts=COUNTS,
        promoted=promoted,
        seconds=90.0,
        config=CONFIG,
        seed=3,
    )


# --- rows ---------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_scores_say():
    found = row(HIGH, round=2, baseline=LOW, control=HIGH, val=MIXED, classes=[0, 1, 0, 1] * 5)
    assert found.test_map.value == pytest.approx(0.7)
    assert found.val_map.value == pytest.approx(0.5)
    assert found.val_map.low < 0.5 < found.val_map.high
    assert found.test_class_map == {"astro": pytest.approx(0.7), "cort": pytest.approx(0.7)}
    assert (found.change.value, found.change.low, found.change.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (found.vs_control.value, found.vs_control.low) == pytest.approx((0, 0))
    assert (found.round, found.model, found.cutoffs, found.confidence) == (2, "ensemble", "0.25", 0.95)
    assert (found.accepted, found.ignored, found.rejected) == (5, 3, 2)
    assert (found.precision50, found.recall50, found.f1) == (1, 1, 1)
    assert (found.val_images, found.test_images) == (20, 20)
    assert row(LOW).change is None and row(LOW).vs_control is None


def test_rows_are_repeatable_and_images_must_fit():
    assert row(MIXED, baseline=LOW) == row(MIXED, baseline=LOW)
    with pytest.raises(ValueError, match="same images"):
        on_common(scores(LOW)[1:], scores(LOW)[:4])


def test_a_baseline_that_lacks_images_is_compared_on_those_that_both_have():
    """Masks of another tool may not cover all test images; what it lacks is neither right nor wrong."""
    found = row(MIXED, baseline=LOW[:4])
    mine, theirs = (sum(passed[:4]) / 4 / 10 for passed in (MIXED, LOW))  # of ten thresholds
    assert found.change.value == pytest.approx(mine - theirs) and found.change_images == 4 < found.test_images
    none = row(MIXED, baseline=())
    assert none.change is None and none.change_images == 0


def test_the_control_is_compared_with_the_model_that_it_copies():
    assert baseline_name("control", "unet-a") == baseline_name("control-2", "unet-a") == "unet-a"
    assert baseline_name("ensemble", "unet-a") == "ensemble"
    assert baseline_name("unet-b", "unet-a") == "unet-b"


def test_a_figure_is_added_by_one_entry(tmp_path, monkeypatch):
    """It is computed, stored, read back, and shown in every form of the leaderboard."""
    cells = Figure("cells", pa.int64(), lambda e: sum(s.total.n_truth for s in e.test.scores), "cells", place=18)
    monkeypatch.setattr("cellsemi.rounds.evaluation.figures.FIGURES", [*FIGURES, cells])
    monkeypatch.setattr("cellsemi.rounds.evaluation.leaderboard.FIGURES", [*FIGURES, cells])
    paths = RunPaths(tmp_path)
    leaderboard.write(paths.leaderboard, [row(LOW)], "a sentence", "hash")
    assert leaderboard.read(paths.leaderboard)[0].to_json()["cells"] == len(LOW)
    assert pd.read_parquet(paths.leaderboard.with_suffix(".parquet")).cells.tolist() == [len(LOW)]
    assert pd.read_csv(paths.leaderboard.with_suffix(".csv")).cells.tolist() == [len(LOW)]
    assert leaderboard.frame(paths.leaderboard).cells.tolist() == [len(LOW)]
    assert "| cells |" in paths.leaderboard.with_suffix(".md").read_text()
    header, cells_shown = leaderboard.display_rows([row(LOW)])
    assert header[-1] == "cells" and cells_shown[0][-1] == str(len(LOW))  # what the terminal's table is made of


def test_the_table_for_pandas_is_the_csv(tmp_path):
    leaderboard.write(tmp_path / "l", [row(LOW), row(HIGH, round=1, baseline=LOW)], "a sentence", "hash")
    pd.testing.assert_frame_equal(leaderboard.frame(tmp_path / "l"), pd.read_csv(tmp_path / "l.csv"))


# --- promotion ----------------------------------------------------------------------------------------


def test_a_clear_gain_is_promoted_and_no_gain_is_not():
    better = decide(scores(HIGH), scores(LOW), CLASSES, CONFIG, 0)
    assert (better.promoted, better.probability) == (True, 1.0)
    assert "0.500 -> 0.700" in better.reason
    same = decide(scores(LOW), scores(LOW), CLASSES, CONFIG, 0)
    assert (same.promoted, same.probability) == (False, 0.5)
    assert "not clearly better" in same.reason and "50.0% of 500 resamples, 60.0% needed" in same.reason
    worse = decide(scores(LOW), scores(HIGH), CLASSES, CONFIG, 0)
    assert (worse.promoted, worse.probability) == (False, 0.0)
    assert "class astro fell by 0.200" in worse.reason


def test_a_gain_within_noise_is_not_promoted_unless_asked():
    candidate, best = scores([9, 1, 8, 2, 6]), scores([5, 5, 5, 5, 5])
    found = decide(candidate, best, CLASSES, CONFIG, 0)
    assert 0.5 < found.probability < 0.6 and not found.promoted
    lax = PromotionConfig(bootstrap=500, min_probability=0.5)
    assert decide(candidate, best, ("astro",), lax, 0).promoted


def test_each_further_try_needs_more():
    """So many tries at what the last one needs come to no more chance than one at the first: 1 - p is shared."""
    candidate, best = scores([9, 2, 8, 3, 6]), scores([5, 5, 5, 5, 5])
    found = [
        decide(candidate, best, CLASSES, PromotionConfig(bootstrap=500, class_margin=1), 0, tries=t) for t in (1, 2)
    ]
    assert 0.6 < found[0].probability == found[1].probability < 0.8
    assert [each.promoted for each in found] == [True, False]
    assert "60.0% needed)" in f"{found[0].reason})" and found[1].reason.startswith("not promoted: not clearly better")
    assert "80.0% needed at try 2, 60.0% at the first" in found[1].reason
    for tries, asked in itertools.product(range(1, 6), (0.0, 0.5, 0.6, 0.95, 1.0)):
        needed = needed_probability(asked, tries)
        assert tries * (1 - needed) == pytest.approx(1 - asked) and needed >= asked - 1e-12


def test_a_winner_is_called_by_its_word():
    assert decide(scores(HIGH), scores(LOW), CLASSES, CONFIG, 0, word="recommended").reason.startswith("recommended: ")
    assert decide(scores(LOW), scores(HIGH), CLASSES, CONFIG, 0, word="recommended").reason.startswith(
        "not recommended"
    )


def test_no_class_may_fall():
    candidate, best = scores([9] * 8 + [4] * 2, [0] * 8 + [1] * 2), scores([5] * 10, [0] * 8 + [1] * 2)
    found = decide(candidate, best, CLASSES, CONFIG, 0)
    assert found.probability == 1.0 and not found.promoted
    assert found.reason.startswith("not promoted: class cort fell by 0.100, at most 0.050 is allowed")
    assert decide(candidate, best, CLASSES, PromotionConfig(class_margin=0.1), 0).promoted  # at most: inclusive


def test_the_first_round_has_no_incumbent_and_a_decision_survives_json():
    first = decide(scores(LOW), None, CLASSES, CONFIG, 0)
    assert first == Decision(True, None, "promoted: the first round has no incumbent")
    with pytest.raises(ValueError, match="same images"):
        decide(scores(LOW)[1:], scores(LOW[:3]), CLASSES, CONFIG, 0)
    part = decide(scores(LOW), scores(LOW[:3]), CLASSES, CONFIG, 0)
    assert f"on the 3 of {len(LOW)} images that both have" in part.reason


# --- verdict ------------------------------------------------------------------------------------------

BASE = row(LOW)
HELD = (0, "ensemble")
USE = "Use the ensemble of round 0 (cellsemi predict IMAGES --run mine --out DIR)."
REFUSED = {1: Decision(False, 0.3, "not promoted: not clearly better")}


def against(control, round=1, control_round=1):
    """The first model of a round, whose test scores are HIGH, beside a control."""
    of = evaluation(control, model="control", round=control_round)
    difference = map_difference(evaluation(HIGH, round=round, model="unet-a"), of, CONFIG, 3)
    return AgainstControl(round, "unet-a", control_round, "control", difference)


WON = [BASE, row(HIGH, round=1, baseline=LOW)]


@pytest.mark.parametrize(
    ("rows", "compared", "opening"),
    [
        ([], None, "Nothing has been evaluated yet."),
        ([BASE], None, "No round has been run yet: the supervised models of round 0 score 0.500 (95 % interval 0.4"),
        (WON, None, "The rounds helped, but nothing here tells it from longer training:"),
        (WON, against(LOW), "The rounds helped: test mAP 0.500 in round 0"),
        (WON, against(HIGH), "The rounds helped, but not measurably more than longer training on the human labels:"),
        (WON, against([9] * 20), "The rounds helped less than longer training on the human labels alone:"),
        ([BASE, row(MIXED, round=1, baseline=LOW)], None, "The rounds did not help measurably:"),
        ([BASE, row(LOW, round=1, baseline=HIGH)], None, "The rounds did harm, although validation promoted them:"),
    ],
)
def test_the_verdict_says_what_the_rows_say(rows, compared, opening):
    assert verdict(rows, {}, compared, HELD, "mine").removeprefix(USE + " ").startswith(opening)


def test_the_verdict_names_a_refused_round_and_speaks_of_the_standing_one():
    none = verdict([BASE, row(HIGH, round=1, baseline=LOW, promoted=False)], REFUSED, None, HELD, "mine")
    assert none.startswith(
        f"{USE} The rounds did not help, none was promoted: test mAP 0.500 in round 0, 0.700 in round 1"
    )
    assert none.endswith("; round 1 was not promoted: not clearly better.")
    rows = [*WON, row(LOW, round=2, baseline=LOW, promoted=False)]
    found = verdict(rows, LOST, None, HELD, "mine")
    assert "0.700 in round 1, a change of +0.200 (95 % interval +0.200 to +0.200, n = 20)" in found
    assert "there is no supervised control of equal steps to compare with; round 2 was not promoted" in found


LOST = {2: Decision(False, 0.1, "not promoted: not clearly better")}


def test_the_verdict_compares_the_standing_round_and_not_the_refused_one_with_the_control():
    """The student of round 2 was refused and is worse than the control; that of round 1, which stands, is better."""
    refused = [
        row(LOW, round=2, baseline=LOW, promoted=False),
        row(LOW, round=2, model="unet-a", baseline=LOW, control=MIXED, promoted=False),
    ]
    found = verdict([*WON, *refused], LOST, against(LOW, control_round=2), HELD, "mine")
    assert found.removeprefix(USE + " ").startswith("The rounds helped: ")
    assert (
        "against a supervised control of as many steps as the student of round 2 had, unet-a of round 1 differs by "
        "+0.200 (95 % in" in found
    )


def test_a_comparison_of_a_round_that_teaches_no_more_says_nothing():
    rows = [*WON, row(MIXED, round=2, baseline=LOW)]
    assert "there is no supervised control of equal steps" in verdict(rows, {}, against(LOW), HELD, "mine")


def test_the_verdict_states_the_control():
    found = verdict(WON, {}, against(LOW), HELD, "mine")
    assert "against a supervised control of as many steps, unet-a of round 1 differs by +0.200 (95 % in" in found


def test_the_verdict_says_first_what_to_use():
    found = verdict(WON, {}, against(LOW), (1, "ensemble"), "mine")
    assert found.startswith("Use the ensemble of round 1 (cellsemi predict IMAGES --run mine --out DIR). The rounds ")
    found = verdict(WON, {}, against(LOW), (1, "control"), "mine")
    won = "on validation images longer training on the human labels won"
    assert found.startswith(f"Use the control of round 1 (cellsemi predict IMAGES --run mine --out DIR): {won}. The")


@pytest.mark.parametrize(("images", "words"), [(1, "1 test image is"), (7, "7 test images are")])
def test_nothing_is_concluded_from_a_few_test_images(images, words):
    rows = [row(LOW[:images]), row(HIGH[:images], round=1, baseline=LOW[:images])]
    found = verdict(rows, {}, None, HELD, "mine")
    assert f"{words} too few to tell whether the rounds helped: test mAP 0." in found
    assert f"a change of +0.200 (n = {images}: too few)" in found and "interval" not in found
    assert re.search(rf"score 0\.\d+ \(n = {images}: too few\) mAP on test", verdict(rows[:1], {}, None, HELD, "mine"))


# --- tables -------------------------------------------------------------------------------------------


def test_rank_is_by_validation_and_never_by_test():
    header, cells = display_rows([row(HIGH, val=LOW), row(LOW, val=HIGH, round=1, baseline=LOW)])
    assert header[:3] == ["rank", "round", "model"]
    assert [line[0] for line in cells] == ["2", "1"]
    assert all(len(line) == len(header) for line in cells)
    assert cells[0][header.index("change (n = 20)")] == "-"
    assert cells[1][header.index("change (n = 20)")].startswith("+0.000 (")
    assert cells[0][header.index("test cort")] == "-"  # no test image holds it
    assert cells[0][header.index("time")] == "1 min 30 s"


def test_the_number_of_images_stands_beside_every_interval():
    header, cells = display_rows([row(MIXED, val=MIXED[:12]), row(MIXED, val=MIXED[:12], round=1, baseline=LOW)])
    places = [header.index(name) for name in ("val mAP (chosen on, n = 12)", "test mAP (n = 20)", "change (n = 20)")]
    assert all(re.fullmatch(r"[+-]?0\.\d{3} \([+-]?0\.\d{3}\.\.[+-]?0\.\d{3}\)", cells[1][place]) for place in places)
    header, cells = display_rows([row(MIXED, val=MIXED[:12]), row(MIXED, round=1, baseline=LOW)])
    val = [line[header.index("val mAP (chosen on)")] for line in cells]
    assert [text.partition("; ")[2] for text in val] == ["n = 12)", "n = 20)"]


def test_few_images_have_no_interval():
    header, (cells,) = display_rows([row(HIGH[:7], round=1, baseline=LOW[:7], val=LOW[:8])])
    assert cells[header.index("test mAP")] == "0.700 (n = 7: too few)"
    assert cells[header.index("change")] == "+0.200 (n = 7: too few)"
    assert ".." in cells[header.index("val mAP (chosen on, n = 8)")]
    assert [column_name(name) for name in header[:4]] == ["rank", "round", "model", "val mAP"]


def test_promoted_is_what_teaches_and_a_control_is_recommended():
    rows = [BASE, row(HIGH, round=1, baseline=LOW, promoted=False), row(HIGH, model="control", round=1, promoted=False)]
    marked = recommend(rows, (1, "control"))
    header, cells = display_rows(marked)
    assert [line[header.index("decision")] for line in cells] == ["promoted", "-", "recommended"]
    assert [found.recommended for found in marked] == [False, False, True]
    header, cells = display_rows(recommend(rows, (0, "ensemble")))
    assert [line[header.index("decision")] for line in cells] == ["promoted", "-", "-"]


def test_one_class_needs_no_column_of_its_own():
    single = BASE.with_(test_class_map={"cell": 0.5})
    assert not [name for name in display_rows([single])[0] if name.startswith("test c")]
    assert display_rows([])[1] == []


def test_files_hold_the_rows(tmp_path):
    rows = [BASE, row(MIXED, round=1, baseline=LOW, control=LOW, promoted=False)]
    leaderboard.write(tmp_path / "leaderboard", rows, "A sentence.", "hash")
    assert leaderboard.read(tmp_path / "leaderboard") == rows
    before = (tmp_path / "leaderboard.parquet").read_bytes()
    leaderboard.write(tmp_path / "leaderboard", rows, "A sentence.", "hash")
    assert (tmp_path / "leaderboard.parquet").read_bytes() == before
    frame = pd.read_parquet(tmp_path / "leaderboard.parquet")
    assert frame.test_map.tolist() == pytest.approx([0.5, 0.5])
    lines = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text(encoding="utf-8").splitlines()))
    assert float(lines[1]["test_map_low"]) == rows[1].test_map.low
    assert (lines[0]["change"], lines[0]["test_map.cort"], lines[1]["promoted"]) == ("", "", "False")
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert text.startswith("# Leaderboard\n\nA sentence.\n\n| rank | round |")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1


def test_rows_survive_json_and_damage_is_named(tmp_path):
    found = row(MIXED, round=1, baseline=LOW)
    assert Row.from_json(json.loads(json.dumps(found.to_json(), sort_keys=True))) == found
    with pytest.raises(RunError, match="damaged"):
        Row.from_json({"round": 1})
    with pytest.raises(RunError, match="no leaderboard yet"):
        leaderboard.read(tmp_path / "leaderboard")


def test_each_class_stays_under_its_name(tmp_path):
    found = BASE.with_(test_class_map={"b": 0.5, "a": 0.25})
    again = Row.from_json(json.loads(json.dumps(found.to_json(), sort_keys=True)))
    assert list(again.test_class_map) == ["b", "a"]  # the order of the config, although JSON sorts keys
    leaderboard.write(tmp_path / "leaderboard", [found], "", "hash")
    assert list(leaderboard.read(tmp_path / "leaderboard")[0].test_class_map) == ["b", "a"]
    header, (first, second) = display_rows([found, BASE.with_(test_class_map={"a": 0.25, "b": 0.5})])
    assert first == second
    assert (first[header.index("test a")], first[header.index("test b")]) == ("0.250", "0.500")


def test_empty_leaderboard_is_written_too(tmp_path):
    leaderboard.write(tmp_path / "leaderboard", [], "Nothing yet.", "hash")
    assert leaderboard.read(tmp_path / "leaderboard") == []
    assert "Nothing yet." in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


# --- evaluation ---------------------------------------------------------------------------------------


def test_evaluations_survive_the_disk(tmp_path):
    path = tmp_path / "evaluation.parquet"
    written = [
        evaluation(MIXED, "val", model="unet-a", classes=[0, 1, 1, 0] * 5),
        evaluation(MIXED, "test", model="unet-a", threshold=0.1),
        evaluation(LOW, "test", model="ensemble", round=0),
    ]
    write_evaluations(path, written, CLASSES, "hash")
    assert read_evaluations(path, CLASSES) == written
    assert find(written, "ensemble", "test") is written[2]
    with pytest.raises(RunError, match="no rows of 'ensemble' on 'val'"):
        find(written, "ensemble", "val")
    with pytest.raises(RunError, match=r"holds classes \['cort'\]"):
        read_evaluations(path, CLASSES[:1])
    frame = pd.read_parquet(path)
    assert frame.groupby(["model", "split"]).ap.mean()["unet-a", "test"] == pytest.approx(0.5)
    assert frame.classes[1][0]["class"] == "cort"
