"""`cellsemi ablate`: its runs, that they resume, its table against the evaluation tables, its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from helpers.campaigns import PLAIN
from helpers.fake_family import DIVERGES
from helpers.terminal import invoke

from cellsemi.configs.ablation_parts import PARTS
from cellsemi.configs.loading import load_config
from cellsemi.models.registry import FAMILIES
from cellsemi.orchestrator import ablation, campaign
from cellsemi.orchestrator.cli import ablate as ablate_commands
from cellsemi.rounds.store import run
from cellsemi.rounds.store.run import RunPaths

SIZES = ("labelled=3", "unlabelled=3", "val=3", "test=4", "height_px=64", "width_px=80")
LIMITS = "{accept: 0.3, reject: 0.1, min_area_px: 4}"
SETTINGS = [*PLAIN, *(f"data.generated.{size}" for size in SIZES)]
SETTINGS += ["engine.min_free_mb=0", "rounds.promotion.bootstrap=100", "rounds.control=false", "run.root=out"]
SETTINGS += [f"filter.thresholds={{shsy5y: {LIMITS}, astro: {LIMITS}, cort: {LIMITS}}}"]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setitem(FAMILIES, "flow-unet", "helpers.fake_family")
    monkeypatch.setattr("os.fsync", lambda handle: None)


def ablate(*args: str, settings: tuple[str, ...] = ()) -> Result:
    every = [word for setting in [*SETTINGS, *settings] for word in ("--set", setting)]
    return invoke("ablate", "--config", "demo", "--engine", "inline", *every, *args)


def test_the_table_holds_what_the_evaluation_tables_say() -> None:
    done = ablate("--n", "1", "--seed", "3", "--seed", "0", "--part", "fusion", "--part", "promotion", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    rows = {row["part"]: row for row in content["rows"]}
    assert list(rows) == ["base", "fusion", "promotion"]
    assert [rows[name]["to"] for name in rows] == ["", "off", "off"]
    for name, row in rows.items():
        assert row["seeds"] == [3, 0]
        for kind, rounds in (("last", row["last_rounds"]), ("promoted", row["promoted_rounds"])):
            ours = [ensemble_scores(name, seed, round) for seed, round in zip((3, 0), rounds, strict=True)]
            assert row[f"{kind}_map"] == pytest.approx(np.mean([found.mean() for found in ours]))
            if name == "base":
                assert row[f"{kind}_change"] is None
                continue
            theirs = [
                ensemble_scores("base", seed, round)
                for seed, round in zip((3, 0), rows["base"][f"{kind}_rounds"], strict=True)
            ]
            differences = [(a - b).mean() for a, b in zip(ours, theirs, strict=True)]
            assert list(row[f"{kind}_change_by_seed"].values()) == pytest.approx(differences)
            assert row[f"{kind}_change"]["value"] == pytest.approx(np.mean(differences))
        counts = [pseudo_states(name, seed) for seed in (3, 0)]
        for state in ("accepted", "ignored", "rejected"):
            assert row[state] == np.mean([count.get(state, 0) for count in counts])
    assert rows["promotion"]["promoted_rounds"] == [1, 1], "without the judge the last round always teaches"
    assert rows["fusion"]["last_change"]["value"] != 0
    assert 0 in rows["base"]["promoted_rounds"], "these seeds hold a run whose last round is not the promoted one"
    seconds = [sum(manifest(paths_of("fusion", seed), round)["seconds"] for round in (0, 1)) for seed in (3, 0)]
    assert rows["fusion"]["minutes"] == pytest.approx(np.mean(seconds) / 60)
    assert content["files"] == [str(Path(f"out/demo-ablation.{suffix}").resolve()) for suffix in ("md", "csv", "json")]


def paths_of(part: str, seed: int) -> RunPaths:
    return RunPaths(Path("out") / f"demo-{part}-s{seed}")


def manifest(paths: RunPaths, round: int) -> dict[str, Any]:
    return json.loads(paths.round_manifest(round).read_text())


def ensemble_scores(part: str, seed: int, round: int) -> pd.Series:
    """Test scores by image, from the counts in the table: mean of TP / (TP + FP + FN) over the thresholds."""
    rows = pd.read_parquet(paths_of(part, seed).evaluation(round))
    rows = rows[(rows.model == "ensemble") & (rows.split == "test")].set_index("image_id")
    both = rows.n_truth + rows.n_predicted
    return pd.Series({i: np.mean([tp / (both[i] - tp) for tp in rows.tp[i]]) if both[i] else 1.0 for i in rows.index})


def pseudo_states(part: str, seed: int, round: int = 1) -> dict[str, int]:
    paths = sorted(paths_of(part, seed).pseudo(round).glob("part-*.parquet"))
    states = [cell["state"] for path in paths for cells in pd.read_parquet(path)["instances"] for cell in cells]
    return pd.Series(states).value_counts().to_dict()


def test_each_run_is_the_base_with_one_part_switched() -> None:
    assert ablate("--n", "0", "--seed", "5", "--part", "ema").exit_code == 0
    first, second = (run.read_config(paths_of(part, 5)) for part in ("base", "ema"))
    whole = load_config("demo", [*SETTINGS, "engine.kind=inline"]).config
    named = {"name": "demo-base-s5", "seed": 5}
    assert first == whole.model_copy(update={"run": whole.run.model_copy(update=named)})
    assert first.training.ema == 0.99 and second.training.ema == 0
    assert second.model_copy(update={"run": first.run, "training": first.training}) == first


def test_a_second_call_does_nothing_but_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ablate("--n", "1", "--part", "weights", "--part", "ema")
    assert first.exit_code == 0, first.output
    table = Path("out/demo-ablation.json").read_bytes()
    Path("out/demo-ablation.json").unlink()
    monkeypatch.setattr(ablate_commands, "_open", lambda *_: pytest.fail("no engine is needed"))
    again = ablate("--n", "1", "--part", "weights", "--part", "ema")
    assert again.exit_code == 0 and Path("out/demo-ablation.json").read_bytes() == table


def test_a_larger_n_goes_on_and_a_smaller_one_looks_at_its_own_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablate("--n", "1", "--part", "promotion").exit_code == 0
    short = json.loads(Path("out/demo-ablation.json").read_text())
    assert ablate("--n", "2", "--part", "promotion").exit_code == 0
    long = json.loads(Path("out/demo-ablation.json").read_text())
    assert [row["last_rounds"] for row in long["rows"]] == [[2], [2]]
    monkeypatch.setattr(ablate_commands, "_open", lambda *_: pytest.fail("no engine is needed"))
    assert ablate("--n", "1", "--part", "promotion").exit_code == 0
    assert json.loads(Path("out/demo-ablation.json").read_text()) == short


def test_an_interrupted_ablation_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = campaign.run_campaign, []

    def once(*args: Any) -> None:
        calls.append(args[3].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(*args)

    monkeypatch.setattr(ablation, "run_campaign", once)
    assert ablate("--n", "0", "--part", "ema", "--seed", "0", "--seed", "1").exit_code != 0
    assert ablate("--n", "0", "--part", "ema", "--seed", "0", "--seed", "1").exit_code == 0
    order = ["demo-base-s0", "demo-ema-s0", "demo-base-s1", "demo-ema-s1"]
    assert calls == [*order[:2], *order[1:]], "seed by seed, and the finished run is not begun again"


def test_a_run_that_stopped_early_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    never = ("rounds.promotion.min_probability=1", "rounds.promotion.class_margin=0", "rounds.stop_after=1")
    assert ablate("--n", "3", "--part", "stopping", settings=never).exit_code == 0
    rows = json.loads(Path("out/demo-ablation.json").read_text())["rows"]
    assert [(row["to"], row["last_rounds"], row["promoted_rounds"]) for row in rows] == [
        ("", [1], [0]),
        ("off", [3], [0]),
    ]
    monkeypatch.setattr(ablate_commands, "_open", lambda *_: pytest.fail("no engine is needed"))
    assert ablate("--n", "3", "--part", "stopping", settings=never).exit_code == 0


def test_a_run_that_fails_is_named_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PARTS["ema"].__class__(
        "ema", "Breaks; off: works.", "-", {"training.lr": 0.004}, {"training.lr": DIVERGES}
    )
    monkeypatch.setattr("cellsemi.configs.ablation_parts.PARTS", {"ema": broken, "weights": PARTS["weights"]})
    done = ablate("--n", "0", "--part", "ema", "--part", "weights")
    assert done.exit_code == 1
    assert "failed: ema, seed 0: " in " ".join(done.stdout.split()) and "loss is nan" in done.stdout
    rows = {row["part"]: row for row in json.loads(Path("out/demo-ablation.json").read_text())["rows"]}
    assert rows["ema"]["last_map"] is None and "no student is left" in rows["ema"]["errors"]["0"]
    assert rows["weights"]["last_change"]["value"] == 0


def test_progress_says_which_run_of_how_many(capfd: pytest.CaptureFixture[str]) -> None:
    assert ablate("--n", "0", "--part", "ema").exit_code == 0
    said = capfd.readouterr().err
    assert "engine: in-process" in said and said.count("engine:") == 1
    assert said.index("run 1 of 2, demo-base-s0\n") < said.index("run 2 of 2, demo-ema-s0\n")
    assert ablate("--n", "0", "--part", "ema", "--part", "weights").exit_code == 0
    assert "run 2 of 3, demo-ema-s0: was done before\n" in capfd.readouterr().err
    assert ablate("--n", "0", "--part", "ema").exit_code == 0
    assert "all 2 runs were done before\n" in capfd.readouterr().err


def test_without_names_all_parts_are_taken_and_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "run_campaign", _not_carried_out)
    unfit = replace(PARTS["human-last"], on={"training.human_last": 1.0}, off={"training.human_last": 1.0})
    monkeypatch.setitem(PARTS, "human-last", unfit)
    done = ablate("--n", "0")
    assert done.exit_code == 1
    content = json.loads(Path("out/demo-ablation.json").read_text())
    left_out = [name for name in PARTS if any(f"part '{name}'" in note for note in content["notes"])]
    assert "human-last" in left_out and "ignore-band" in left_out
    assert sorted([*left_out, *(row["part"] for row in content["rows"])]) == sorted(["base", *PARTS])
    assert "left out: part 'human-last': the config is not valid" in done.stdout


def _not_carried_out(*_: Any) -> None:
    from cellsemi.configs.errors import RunError

    raise RunError("not carried out")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n", "1", "--part", "emma"], "no part is called 'emma'; did you mean 'ema'?"),
        (["--n", "1", "--part", "ignore-band"], "part 'ignore-band' changes nothing here"),
        (["--n", "1", "--run", "x" * 60], "run.name"),
        (["--n", "1", "--seed", "-1"], "x>=0"),
        ([], "Missing option '--n'"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_begun(args: list[str], words: str) -> None:
    done = ablate(*args)
    assert words in f"{done.output} {done.exception}"
    assert getattr(done.exception, "exit_code", done.exit_code) == 2 or done.exit_code == 2
    assert not Path("out").exists()


def test_a_run_of_another_config_is_refused_before_any_is_begun() -> None:
    assert ablate("--n", "0", "--part", "ema").exit_code == 0
    done = ablate("--n", "0", "--part", "weights", settings=("training.lr=0.001",))
    assert getattr(done.exception, "exit_code", None) == 2 and "training.lr: 0.004 -> 0.001" in str(done.exception)
    assert not paths_of("weights", 0).root.exists()


def test_list_names_every_part_in_one_line() -> None:
    lines = invoke("ablate", "--list").output.splitlines()
    assert [line.split()[0] for line in lines] == list(PARTS)
    content = json.loads(invoke("ablate", "--list", "--json").output)
    assert {part["name"]: (part["on"], part["source"]) for part in content} == {
        part.name: (part.on, part.source) for part in PARTS.values()
    }


def test_a_part_takes_over_the_steps_of_the_base_that_it_does_not_touch() -> None:
    done = ablate("--n", "1", "--part", "promotion", "--part", "weights")
    assert done.exit_code == 0, done.output

    def weights(part: str, round: int) -> int:
        paths = RunPaths(Path("out").resolve() / f"demo-{part}-s0")
        return (paths.model(round, "unet-a") / "model.safetensors").stat().st_ino

    assert weights("promotion", 0) == weights("base", 0)
    assert weights("promotion", 1) == weights("base", 1), "another bar of promotion trains nothing"
    assert weights("weights", 0) == weights("base", 0) and weights("weights", 1) != weights("base", 1)
