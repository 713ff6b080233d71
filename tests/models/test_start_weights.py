"""What a model starts from: a file of others or a model of an earlier run, by a path, a folder or a registered name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.model_folder import facts_of
from safetensors.torch import save

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.models import weight_files
from cellsemi.models.model_files import MODEL_FILE, WEIGHTS_FILE, StartWeights, read_model_file, write_model_file
from cellsemi.models.start_weights import find_given, other_settings, refuse_other_kind, refuse_other_model
from cellsemi.rounds.store import files

MODEL = FlowUnetConfig(name="u", width=8)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    write_model_file(folder, save({"w": torch.ones(2)}), facts_of(MODEL, classes))
    return folder


def test_a_trained_model_is_found_by_its_folder_its_export_its_file_and_its_name(home: Path) -> None:
    member = trained(home / "exported" / "members" / "u")
    weight_files.add(member / WEIGHTS_FILE, "earlier")
    about = read_model_file(member)
    for named in ("exported", "exported/members/u", f"exported/members/u/{WEIGHTS_FILE}", "earlier", str(member)):
        given = find_given(named)
        assert given.about == about and given.sha256 == about.weights_sha256 and given.place.resolve() == member
        assert torch.equal(given.tensors()["w"], torch.ones(2))
        assert [path.name for path in given.parts] == [WEIGHTS_FILE, MODEL_FILE]
        with pytest.raises(ModelError, match="0000"):
            find_given(named, "0" * 64)


def test_a_registered_name_goes_before_a_folder_of_that_name(home: Path) -> None:
    trained(home / "mine")
    torch.save({"x": torch.zeros(1)}, home / "w.pth")
    weight_files.add(home / "w.pth", "mine")
    assert find_given("mine").file == home / "w.pth"


def test_altered_and_moved_files_are_told_apart(home: Path) -> None:
    member = trained(home / "u")
    moved = home / WEIGHTS_FILE
    moved.write_bytes((member / WEIGHTS_FILE).read_bytes())
    alone = find_given(str(moved))
    assert alone.about is None and alone.place == moved and alone.sha256 == read_model_file(member).weights_sha256
    (member / WEIGHTS_FILE).write_bytes(save({"w": torch.zeros(2)}))
    for named in ("u", f"u/{WEIGHTS_FILE}"):
        with pytest.raises(ModelError, match="the file was altered"):
            find_given(named)


def test_another_kind_and_other_classes_are_refused_by_name(home: Path) -> None:
    given = find_given(str(trained(home / "u")))
    refuse_other_model(given, "flow-unet", ("a", "b"))
    with pytest.raises(ModelError, match="a flow-unet, not a cellpose-sam: set `kind: flow-unet`"):
        refuse_other_kind(given, "cellpose-sam")
    for classes in (("b", "a"), ("a",), ("a", "b", "c")):
        with pytest.raises(ModelError, match=f"its classes are a, b, the run's are {', '.join(classes)}"):
            refuse_other_model(given, "flow-unet", classes)
    single = find_given(str(trained(home / "one", ("cell",))))
    refuse_other_model(single, "flow-unet", ("nucleus",))
    assert other_settings(given, FlowUnetConfig(name="other", width=8, seed_offset=3)) == ""
    changed = FlowUnetConfig(name="other", width=6, depth=3)
    assert other_settings(given, changed) == "width is 8 there and 6 here, depth is 4 there and 3 here"


def test_the_weights_before_those_of_an_earlier_model_stay_known(home: Path) -> None:
    member = trained(home / "u")
    before = StartWeights(weights="cpsam", sha256="a" * 64)
    about = files.read_json(member / MODEL_FILE)
    files.write_json(member / MODEL_FILE, {**about, "started_from": before.model_dump(mode="json")})
    model = FlowUnetConfig(name="next", width=8, weights="u")
    stated = find_given("u").stated(model, loaded=3)
    assert stated.before == before and stated.weights == "u" and stated.loaded == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "starts from coco (sha256 bf2d0c1e)"),
        ({"loaded": 3}, "starts from coco (sha256 bf2d0c1e): 3 tensors are loaded, none starts anew"),
        (
            {"loaded": 3, "random": ("classes.0.weight", "classes.2.bias", "rpn.head.conv.0.0.bias"), "unused": ("x",)},
            "starts from coco (sha256 bf2d0c1e): 3 tensors are loaded, 3 start anew (classes, rpn.head); 1 of the file "
            "are not used (x)",
        ),
    ],
)
def test_what_was_loaded_is_one_line(changes: dict[str, object], sentence: str) -> None:
    start = StartWeights(weights="coco", sha256="bf2d0c1e" * 8, **changes)  # type: ignore[arg-type]
    assert start.sentence() == sentence
    facts = facts_of(MODEL)
    assert facts.start() == "" and facts.model_copy(update={"started_from": start}).start() == sentence
    later = facts.model_copy(update={"started_from": start, "teacher_sha256": "0" * 64})
    assert later.start() == "starts from its teacher, which goes back to coco (sha256 bf2d0c1e)"
    taken = facts.model_copy(update={"started_from": start, "class_ids": (0,)})
    assert taken.start() == "teaches as it is, with the weights of sha256 bf2d0c1e"
