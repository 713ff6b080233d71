"""Writes the model card: what a model is, what it learned from, how good it is, and how it is used.

The header is the YAML that Hugging Face reads (huggingface.co/docs/hub/model-cards); the rest is for a person. Every
figure is one of the run's own files; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cellsemi.configs.data import GENERATED
from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation.figures import CHOSEN_ON, Interval
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.report.hugging_face import licence_fields, slug
from cellsemi.rounds.report.round_report import table
from cellsemi.rounds.store.run import is_control

LIBRARY = "cellsemi"
TASK = "image-segmentation"


@dataclass(frozen=True, slots=True)
class CardMember:
    """One trained model.

    `started_from` names the weights that it started from, None from scratch; `weights_licence` is what is known of
    their licence. `cell_probability` is that of a flow model. `cell_diameter_px` is that of the typical cell of its
    human labels, None where there were none, and `scale` what it enlarges images by. `resize_px` is the longer side to
    which it resizes each image, None where it does not.
    """

    name: str
    kind: str
    parameters: int
    steps: int
    started_from: str | None
    weights_licence: str
    cell_probability: float | None
    cell_diameter_px: float | None
    scale: float
    resize_px: int | None = None


@dataclass(frozen=True, slots=True)
class CardRound:
    """A finished round: who labelled for it, what its students learned from, what was decided."""

    round: int
    teachers_round: int | None
    accepted: int
    ignored: int
    rejected: int
    promoted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CardData:
    """The images: `name` and `source` as the run was given them, counts by split, labelled cells by class."""

    name: str
    source: str
    licence: str | None
    images: Mapping[str, int]
    cells: Mapping[str, int]
    class_cells: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from. `round` is that of the model, `row` its line of the leaderboard."""

    name: str
    run: str
    round: int
    classes: Sequence[str]
    one_class_per_image: bool
    data: CardData
    members: Sequence[CardMember]
    rounds: Sequence[CardRound]
    row: Row
    verdict: str
    fusion: FusionConfig | None  # None: one model, nothing is fused
    calibrated: bool
    cutoffs: Cutoffs
    inference: InferenceConfig
    versions: Mapping[str, str]


def to_markdown(facts: CardFacts) -> str:
    """The card of a model folder: header, then the sections in the order in which a person asks."""
    return "\n".join(["---", header(facts), "---", "", body(facts, {"How to use it": _use()})])


def body(facts: CardFacts, first: Mapping[str, Sequence[str]]) -> str:
    """The card without its header, for a file of another kind; `first` are sections that follow what it is."""
    sections = {
        "What it is": _what(facts),
        **first,
        "What it learned from": _data(facts),
        "How good it is: validation and test": _metrics(facts),
        "Limits": _limits(facts),
        "Where it comes from": _lineage(facts),
        "What was chosen": _chosen(facts),
        "Licences": _licences(facts),
        "Citation": _citation(),
    }
    lines = [f"# {facts.name}", ""]
    for title, content in sections.items():
        lines += [f"## {title}", "", *content, ""]
    return "\n".join(lines)


# --- header -------------------------------------------------------------------------------------------


def header(facts: CardFacts) -> str:
    """The YAML of the header, without its two lines of dashes."""
    content = {
        **_licence_fields(facts),
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": ["cell-segmentation", "instance-segmentation", "microscopy", "semi-supervised", *_kinds(facts)],
        **({} if facts.data.source == GENERATED else {"datasets": [slug(facts.data.name)]}),
        "metrics": ["mAP", "f1", "precision", "recall"],
        "model-index": [{"name": facts.name, "results": list(_results(facts))}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).rstrip()


def _licence_fields(facts: CardFacts) -> dict[str, str]:
    """`license`, and `license_name` where it is none that Hugging Face knows."""
    if any(member.started_from for member in facts.members):
        return {"license": "other", "license_name": "see-licences-below"}
    if facts.data.licence is None:
        return {"license": "unknown"}
    return licence_fields(facts.data.licence)


def _results(facts: CardFacts) -> Iterator[dict[str, Any]]:
    """The figures of validation and of test images, as Hugging Face lists results."""
    row = facts.row
    test = {"f1": ("F1 at IoU > .5", row.f1), "precision": ("precision at IoU > .5", row.precision50)}
    test |= {"recall": ("recall at IoU > .5", row.recall50)}
    for split, interval, more in (("validation", row.val_map, {}), ("test", row.test_map, test)):
        assert interval is not None, "a model that is handed on was evaluated on all images"
        how = "" if split == "test" else "; thresholds and the round were chosen on these images"
        words = f"mAP, mean over IoU .50 to .95 and over images (Kaggle Sartorius){how}"
        figures = {"mAP": (words, interval.value), **more}
        yield {
            "task": {"type": TASK, "name": "cell instance segmentation"},
            "dataset": {"type": slug(facts.data.name), "name": facts.data.name, "split": split},
            "metrics": [
                {"type": key, "name": name, "value": round(value, 4)} for key, (name, value) in figures.items()
            ],
        }


def _kinds(facts: CardFacts) -> list[str]:
    return list(dict.fromkeys(member.kind for member in facts.members))


# --- sections -----------------------------------------------------------------------------------------


def _what(facts: CardFacts) -> list[str]:
    several = len(facts.classes) > 1
    made = f"one model ({facts.members[0].kind})"
    if len(facts.members) > 1:
        made = f"an ensemble of {len(facts.members)} models ({', '.join(_kinds(facts))}) whose masks are fused"
    pseudo = ", and on pseudo-labels that earlier models made for unlabelled images" if _taught(facts) else ""
    classes = f"Class: {facts.classes[0]}."
    if several:
        one = "All cells of an image get one class." if facts.one_class_per_image else "Each cell gets one of its own."
        classes = f"Classes: {', '.join(facts.classes)}. {one}"
    return [
        "It finds the cells of a microscope image: for each cell a mask"
        f"{', a class' if several else ''} and a score from 0 to 1. It is {made}, trained by cellsemi on "
        f"{_labels(facts)}{pseudo}.",
        "",
        classes,
        "",
        "Intended use: counting and measuring cells in research images that look like those it was trained on. It is "
        "not a medical device, and no result of it should decide about a patient.",
    ]


def _use() -> list[str]:
    return [
        "Install `cellsemi`; `FOLDER` is the folder of this file.",
        "",
        "```python",
        "import cellsemi",
        "",
        'model = cellsemi.load_model("FOLDER")',
        'cells = model.predict("image.tif")',
        'cells.save("cells.geojson")',
        "```",
        "",
        "```bash",
        "cellsemi predict IMAGES --model FOLDER --out DIR",
        "```",
    ]


def _data(facts: CardFacts) -> list[str]:
    data = facts.data
    uses = {
        "labelled": f"{_labels(facts)} that it learned from",
        "val": f"{_labels(facts)} that chose thresholds and rounds",
        "test": f"{_labels(facts)} that were scored once and chose nothing",
        "unlabelled": "no labels; " + ("earlier models labelled them" if _taught(facts) else "not used by this model"),
    }
    rows = [
        (split, str(data.images[split]), str(data.cells[split]) if split != "unlabelled" else "-", use)
        for split, use in uses.items()
    ]
    lines = [
        f"Data set: {data.name} (read as `{data.source}`).",
        "",
        *table(("images", "number", "cells", "use"), rows),
    ]
    if len(facts.classes) > 1:
        counts = ", ".join(f"{name} {data.class_cells.get(name, 0)}" for name in facts.classes)
        lines += ["", f"Labelled cells by class: {counts}."]
    if taught := _taught(facts):
        shown = [(str(each.round), str(each.accepted), str(each.ignored), str(each.rejected)) for each in taught]
        lines += [
            "",
            "Pseudo-labels behind this model. Accepted ones were learned, ignored ones left the loss, rejected ones "
            "counted as background.",
            "",
            *table(("round", "accepted", "ignored", "rejected"), shown),
        ]
    return lines


def _metrics(facts: CardFacts) -> list[str]:
    row = facts.row
    assert row.val_map is not None and row.test_map is not None, "a model that is handed on was evaluated on all images"
    at_50 = (row.f1, row.precision50, row.recall50)
    rows = [
        (f"validation ({CHOSEN_ON})", str(row.val_images), _interval(row.val_map), "-", "-", "-"),
        ("test", str(row.test_images), _interval(row.test_map), *(f"{value:.3f}" for value in at_50)),
    ]
    lines = [
        *table(("images", "n", f"mAP ({row.confidence * 100:g} % interval)", "F1", "precision", "recall"), rows),
        "",
        "mAP is Kaggle's score of the Sartorius competition: TP / (TP + FP + FN) at IoU .50 to .95, averaged over the "
        "thresholds and then over the images; it is not COCO's average precision. F1, precision and recall are at "
        "IoU > .5, all cells together. Intervals are bootstrapped over images; they do not hold the chance of another "
        "training seed. Thresholds and the round were chosen on the validation images, so that their figure is "
        "optimistic; the test images chose nothing.",
    ]
    known = {name: value for name, value in row.test_class_map.items() if value is not None}
    if len(facts.classes) > 1:
        shown = [(name, f"{known[name]:.3f}" if name in known else "-") for name in facts.classes]
        lines += ["", *table(("class", "test mAP"), shown)]
    return [*lines, "", f"Did the rounds help? {facts.verdict}"]


def _limits(facts: CardFacts) -> list[str]:
    unseen = [name for name in facts.classes if not facts.data.class_cells.get(name)]
    lines = [
        "- Images of another modality, stain or magnification than the training images: expect worse, and check on a "
        "few labelled images of your own before you trust a count.",
        "- A score orders the cells of this model; it need not be the probability that a cell is right.",
        f"- It was measured on {facts.row.test_images} test images of the data set that it learned from, and on no "
        "other.",
    ]
    if unseen:
        lines.append(f"- No human-labelled cell to learn from was of the class {', '.join(unseen)}.")
    if _taught(facts):
        lines.append("- It learned from pseudo-labels, so that errors which its teachers made often may be its own.")
    return lines


def _lineage(facts: CardFacts) -> list[str]:
    rows = [
        (
            str(each.round),
            f"{_labels(facts)} alone" if each.teachers_round is None else f"round {each.teachers_round}",
            "yes" if each.promoted else "no",
            each.reason,
        )
        for each in facts.rounds
    ]
    return [
        f"Run `{facts.run}`, round {facts.round}. A round is promoted when its models beat the best so far on "
        "validation images; then they teach the next one.",
        "",
        *table(("round", "teachers", "promoted", "why"), rows),
    ]


def _chosen(facts: CardFacts) -> list[str]:
    inference = facts.inference
    rows = [
        (
            *(each.name, each.kind, f"{each.parameters:,}", str(each.steps), _probability(each.cell_probability)),
            "-" if each.cell_diameter_px is None else f"{each.cell_diameter_px:.1f} px",
            f"{each.scale:.3g}" if each.resize_px is None else f"longer side to {each.resize_px} px",
        )
        for each in facts.members
    ]
    columns = ("model", "family", "parameters", "steps", "cell probability", "typical cell", "enlarged")
    lines = [*table(columns, rows), ""]
    lines.append(
        "- Typical cell: the median diameter of the labelled cells that the model learned from. Enlarged: how many "
        "times it resizes an image before its network sees it; the masks have the size of the image."
    )
    lines.append(
        f"- Kept are {facts.cutoffs.sentence(facts.classes)}, chosen on validation images; each of these was scored "
        "with what the others chose."
    )
    if fusion := facts.fusion:
        lines.append(
            f"- Fusion: `{fusion.method}`; masks of different models with an IoU of at least {fusion.iou:g} are one "
            "cell. Scores are "
            + ("calibrated per model before they are fused." if facts.calibrated else "fused as they are.")
        )
    lines.append(
        f"- Views: {', '.join(inference.tta)}; scales: {', '.join(f'{scale:g}' for scale in inference.scales)}."
    )
    lines.append(f"- Masks of fewer than {inference.min_area_px} pixels are left out.")
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [*lines, f"- Made with {versions}."]


def _licences(facts: CardFacts) -> list[str]:
    data = facts.data
    if data.licence:
        lines = [f"- Images and labels: {data.licence}."]
    elif data.source == GENERATED:
        lines = ["- Images and labels: generated by cellsemi; no licence binds them."]
    else:
        lines = ["- Images and labels: not stated. Ask whoever made them before you publish the model."]
    lines += [
        f"- {each.name}: started from {each.started_from}. Licence of these weights: {each.weights_licence}."
        for each in facts.members
        if each.started_from
    ]
    scratch = [each.name for each in facts.members if not each.started_from]
    if scratch:
        lines.append(f"- {', '.join(scratch)}: trained from scratch, from no other's weights.")
    return [
        *lines,
        "- The code that trains and runs the model: Apache-2.0 (cellsemi).",
        "",
        "Licences are as their owners state them; this is not legal advice.",
    ]


def _citation() -> list[str]:
    return [
        "```bibtex",
        "@software{cellsemi,",
        "  title = {cellsemi: semi-supervised pseudo-labelling rounds for cell instance segmentation},",
        "  license = {Apache-2.0}",
        "}",
        "```",
    ]


# --- parts --------------------------------------------------------------------------------------------


def _taught(facts: CardFacts) -> list[CardRound]:
    """The rounds whose pseudo-labels are behind the model: its own, its teachers', theirs and so on; oldest first."""
    by_round = {each.round: each for each in facts.rounds}
    found: list[CardRound] = []
    at = None if is_control(facts.row.model) else facts.round
    while at:
        found.insert(0, by_round[at])
        at = by_round[at].teachers_round
    return found


def _labels(facts: CardFacts) -> str:
    return "generated labels" if facts.data.source == GENERATED else "human labels"


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _probability(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
