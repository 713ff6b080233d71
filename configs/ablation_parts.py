"""Lists the parts of the method that can be switched on and off one at a time, each by its settings.

A new part is one entry of PARTS. A setting is a dotted path; `models[]` stands for each model, and a path
below `training` also reaches the models that have training settings of their own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import build_config, config_difference
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.rounds import AUTO
from cellsemi.configs.schema import Config

EACH_MODEL = "models[]"
OWN_SECTIONS = ("training", "inference")  # a model may have its own


def _nothing(_: Config) -> str:
    return ""


def _fixed_thresholds(config: Config) -> str:
    return "" if config.filter.thresholds == AUTO else "the thresholds are fixed by filter.thresholds"


def _one_model(config: Config) -> str:
    return "" if len(config.models) > 1 else "there is only one model"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: what it does, where it comes from, the settings of both sides.

    `moot` says why the part can change nothing in a config; "" when it can.
    """

    name: str
    sentence: str
    source: str
    on: Mapping[str, Any]
    off: Mapping[str, Any]
    moot: Callable[[Config], str] = _nothing


def _no_scale_search(config: Config) -> str:
    searched = any(config.unlabelled_inference_of(model).scale_search for model in config.models)
    return "" if searched else "unlabelled images are predicted at one scale"


def _no_flow_model(config: Config) -> str:
    return "" if any(model.has_cell_probability for model in config.models) else "there is no flow model"


def _no_extra_heads(config: Config) -> str:
    return "" if any(isinstance(model, MaskRcnnConfig) for model in config.models) else "no model may have such heads"


_ALL = (
    Part(
        "scale-search",
        "Teachers predict an unlabelled image at several scales and keep the one with the best score; off: one scale.",
        "data distillation, Radosavovic et al. 2018, with one scale kept in place of the mean",
        on={"unlabelled_inference.scale_search": [0.5, 0.71, 1.0, 1.41]},
        off={"unlabelled_inference.scale_search": None},
    ),
    Part(
        "unlabelled-sizes",
        "Rounds are compared on val images at the cell sizes of the unlabelled images; off: at their own.",
        "importance-weighted validation, Sugiyama et al. 2007",
        on={"rounds.promotion.unlabelled_sizes": True},
        off={"rounds.promotion.unlabelled_sizes": False},
        moot=_no_scale_search,
    ),
    Part(
        "cell-probability",
        "The cell-probability threshold of each model is chosen on val; off: .5.",
        "the cell probability threshold of Cellpose, Stringer et al. 2021",
        on={"inference.cell_probability": AUTO},
        off={"inference.cell_probability": 0.5},
        moot=_no_flow_model,
    ),
    Part(
        "calibration",
        "Each teacher's scores are calibrated on val before they are fused; off: taken as they are.",
        "isotonic regression, Zadrozny and Elkan 2002",
        on={"fusion.calibrate": True},
        off={"fusion.calibrate": False},
        moot=_one_model,
    ),
    Part(
        "quality",
        "The quality of a pseudo-mask is predicted from score, votes, agreement and shape; off: from its score alone.",
        "Mask Scoring R-CNN, Huang et al. 2019",
        on={"filter.quality": "regressed"},
        off={"filter.quality": "calibrated"},
    ),
    Part(
        "folds",
        "Three lineages, each evaluated on the third of the labels that it never saw; off: one hold-out.",
        "cross-validation, Stone 1974",
        on={"rounds.folds": 3},
        off={"rounds.folds": None},
    ),
    Part(
        "ignore-band",
        "Pseudo-masks between the reject and the accept threshold leave the loss; off: they are background.",
        "LabelMatch, Chen et al. 2022",
        on={"filter.reject_below": 0.1},
        off={"filter.reject_below": 1.0},  # never above the accept threshold: no room between the two
        moot=_fixed_thresholds,
    ),
    Part(
        "weights",
        "Accepted pseudo-masks weigh their calibrated confidence in the loss; off: all weigh 1.",
        "Iscen et al. 2019",
        on={"filter.weight_by_quality": True},
        off={"filter.weight_by_quality": False},
    ),
    Part(
        "areas",
        "Pseudo-masks are limited in size, per class, where that raises the score on validation data; off: never.",
        "limits from the areas of the labelled cells",
        on={"filter.areas": "if-better"},
        off={"filter.areas": "never"},
        moot=_fixed_thresholds,
    ),
    Part(
        "fusion",
        "Teachers draw a mask together, by votes of pixels; off: the best scored mask is taken as it is.",
        "pixel votes of the Sartorius winners; greedy non-maximum suppression on mask IoU",
        on={"fusion.method": "vote"},
        off={"fusion.method": "nms"},
        moot=_one_model,
    ),
    Part(
        "ensemble",
        "Only students that raise validation mAP are in the ensemble; off: all are.",
        "Caruana et al. 2004",
        on={"rounds.ensemble": "greedy"},
        off={"rounds.ensemble": "all"},
        moot=_one_model,
    ),
    Part(
        "balance",
        "Classes of images, and groups within them, are drawn equally often; off: images are.",
        "class-aware sampling, Shen et al. 2016",
        on={"training.balance": "class-group"},
        off={"training.balance": "none"},
    ),
    Part(
        "human-fraction",
        "The better the pseudo-labels do on validation images, the fewer crops are human, down to half; off: half.",
        "the ratio of labelled to unlabelled in a batch, FixMatch, Sohn et al. 2020",
        on={"training.human_fraction": AUTO},
        off={"training.human_fraction": 0.5},
    ),
    Part(
        "sure-background",
        "Unlabelled images teach background only where all teachers are sure; off: wherever no mask lies.",
        "Inconsistency Masks, Vorndran and Roeck 2024",
        on={"filter.background": "sure"},
        off={"filter.background": "all"},
    ),
    Part(
        "draw-by-need",
        "Pseudo-labelled images of what the human labels lack are drawn more often; off: all equally.",
        "weighting by the ratio of densities, Shimodaira 2000",
        on={"training.pseudo_draw": "need"},
        off={"training.pseudo_draw": "even"},
    ),
    Part(
        "human-last",
        "The last sixth of a student's steps sees human labels only; off: pseudo-labels to the end.",
        "Yalniz et al. 2019",
        on={"training.human_last": 0.17},
        off={"training.human_last": 0.0},
    ),
    Part(
        "promotion",
        "A round teaches the next only if it beats the best so far; off: every round does.",
        "paired bootstrap, Efron and Tibshirani 1993",
        on={"rounds.promotion.min_probability": 0.6, "rounds.promotion.class_margin": 0.05},
        off={"rounds.promotion.min_probability": 0.0, "rounds.promotion.class_margin": 1.0},
    ),
    Part(
        "stopping",
        "No further round after one that was not promoted; off: all rounds are run.",
        "Prechelt 1998",
        on={"rounds.stop_after": 1},
        off={"rounds.stop_after": None},
    ),
    Part(
        "augment",
        "Students see strongly augmented crops (the preset `strong`); off: the default augmentation.",
        "Noisy Student, Xie et al. 2020",
        on={f"{EACH_MODEL}.augment": "strong"},
        off={f"{EACH_MODEL}.augment": {}},
    ),
    Part(
        "copy-paste",
        "Trusted cells are pasted into half of the crops; off: into none.",
        "Ghiasi et al. 2021",
        on={f"{EACH_MODEL}.augment.copy_paste.probability": 0.5},
        off={f"{EACH_MODEL}.augment.copy_paste.probability": 0.0},
    ),
    Part(
        "extra-heads",
        "Mask R-CNN also learns centres and boundaries; off: it does not.",
        "the report of system D (docs/models.md), which found no gain",
        on={f"{EACH_MODEL}.centre_head": True, f"{EACH_MODEL}.boundary_head": True},
        off={f"{EACH_MODEL}.centre_head": False, f"{EACH_MODEL}.boundary_head": False},
        moot=_no_extra_heads,
    ),
    Part(
        "ema",
        "The weights that are kept are averaged over the steps; off: those of the last step.",
        "Polyak and Juditsky 1992; Tarvainen and Valpola 2017",
        on={"training.ema": 0.99},
        off={"training.ema": 0.0},
    ),
)
PARTS: Mapping[str, Part] = {part.name: part for part in _ALL}


def find_parts(names: Sequence[str]) -> list[Part]:
    """The parts of these names, each once, in the order given; UsageError with the nearest name for a wrong one."""
    for name in names:
        if name not in PARTS:
            near = difflib.get_close_matches(name, PARTS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"no part is called {name!r}; {hint}There are: {', '.join(PARTS)}")
    return [PARTS[name] for name in dict.fromkeys(names)]


# --- switching ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Switch:
    """A config with one part switched the other way.

    `settings` are those of the part (`training.ema=0.0`), `changes` what differs from the base for it
    (`training.ema: 0.99 -> 0.0`).
    """

    part: str
    to: Literal["on", "off"]
    config: Config
    settings: tuple[str, ...]
    changes: tuple[str, ...]


def switch(base: Config, part: Part) -> Switch:
    """The base with the part switched off where it has it on, and on where it has it off.

    A base that is neither as `on` nor as `off` say counts as the side from which fewer settings of it
    differ, as on when both are equally far. UsageError, naming the part, when it can change nothing in
    this config, or the config would not be valid with it.
    """
    if reason := part.moot(base):
        raise UsageError(f"part {part.name!r} changes nothing here: {reason}")
    on, off = with_settings(base, part.on, part.name), with_settings(base, part.off, part.name)
    to_on, to_off = config_difference(base, on), config_difference(base, off)
    has_it = bool(to_off) and len(to_on) <= len(to_off)
    chosen, changes, settings = (off, to_off, part.off) if has_it else (on, to_on, part.on)
    shown = tuple(f"{path}={_words(value)}" for path, value in settings.items())
    return Switch(part.name, "off" if has_it else "on", chosen, shown, tuple(changes))


def with_settings(base: Config, settings: Mapping[str, Any], part: str) -> Config:
    """The base with these settings; ConfigError, naming the part, when it is not valid with them."""
    data = base.model_dump(mode="json")
    for path, value in settings.items():
        for section, key in _places(data, path):
            section[key] = value
    return build_config(data, f"part {part!r}")


def _places(data: dict[str, Any], path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The sections of a config, with every default written out, that hold the setting."""
    first, *way, key = path.split(".")
    if first == EACH_MODEL:
        sections = [model for model in data["models"] if (way or [key])[0] in model]  # those that have the setting
    else:
        sections = [data[first]]
        if first in OWN_SECTIONS:
            sections += [model[first] for model in data["models"] if model[first] is not None]
    for name in way:
        sections = [section[name] for section in sections]
    yield from ((section, key) for section in sections)


def _words(value: Any) -> str:
    """A value as `--set` takes it; an empty section is its defaults."""
    if value == {}:
        return "default"
    return value if isinstance(value, str) else json.dumps(value)
