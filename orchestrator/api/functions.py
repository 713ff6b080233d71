"""Defines the functions of `import cellsemi`: load a model, score, fuse, run rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import load_config
from cellsemi.configs.rounds import FusionConfig
from cellsemi.orchestrator.api.instances import ImageInstances
from cellsemi.orchestrator.api.model import Model
from cellsemi.orchestrator.api.run import Run
from cellsemi.orchestrator.apply.asked_cutoffs import Asked
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.explain.explain import Explained
from cellsemi.orchestrator.explain.of_model import explain_with, from_values
from cellsemi.orchestrator.explain.write import write_explanation
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.comparison import common_classes, renumbered, score_in
from cellsemi.rounds.evaluation.metrics import Summary, summarise
from cellsemi.rounds.formats.label_map.label_map import check_numbered
from cellsemi.rounds.pseudo_labels import fusion
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import decode_label_map

Labels = Instances | NDArray[Any] | str | Path  # cells, a label map, or the file of one


def load_model(folder: str | Path, device: str = "auto") -> Model:
    """A model that `cellsemi model export` wrote; ModelError when a file is missing or altered."""
    return Model(TrainedModel.read(files.place(folder)), device)


def explain(
    image: str | Path,
    *,
    run: str | Path | None = None,
    model: str | Path | None = None,
    round: int | None = None,
    min_score: Asked = None,
    min_area_px: Asked = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Explained:
    """What models made of an image, and why each cell was kept or dropped; `out` is a folder to write it into.

    `image` is a file, or the id of an image of the run. `run` and `round` as in `cellsemi explain`; `model` is a folder
    of `cellsemi model export` instead. Errors are those of that command.
    """
    found = explain_with(
        str(image),
        None if run is None else str(run),
        None if model is None else files.place(model),
        from_values(min_score, min_area_px),
        round=round,
        device=device,
    )
    if out is not None:
        write_explanation(found, Path(out))
    return found


def score(predicted: Labels | Sequence[Labels], truth: Labels | Sequence[Labels]) -> Summary:
    """How good cells are: Kaggle Sartorius mAP, precision, recall, F1 and mean IoU at IoU > .5.

    Both are cells, label maps (int (H, W), 0 is background) or their files (PNG, TIFF); or sequences of them, image
    by image. Cells in the state "ignored" of the truth, and what lies on them, are not scored. `class_map` compares
    classes where both sides name them; label maps do not. ValueError when the two differ in number or size, ImageError
    for a mask of foreground, which numbers no cells.
    """
    pairs = list(zip(_listed(predicted), _listed(truth), strict=True))
    ours, theirs = (_class_names(cells for cells in side) for side in zip(*pairs, strict=True))
    common = common_classes(theirs, ours)
    scores = [
        score_in(str(number), renumbered(found, _own(found), common), renumbered(known, _own(known), common))
        for number, (found, known) in enumerate(pairs)
    ]
    return summarise(scores, common)


def fuse(
    members: Mapping[str, Instances],
    *,
    iou: float = 0.5,
    method: Literal["vote", "weighted", "nms", "union"] = "vote",
    min_votes: int = 1,
    one_class_per_image: bool = False,
) -> Instances:
    """One set of cells from those that several models, or people, found in the same image.

    Cells of different members with at least this IoU are one cell; `method` says what its mask is, as
    `fusion.method` does in a config. A cell that fewer than `min_votes` members found is left out. Of cells that
    know their image the result knows it too. ValueError when there is no member, or their images differ in size.
    """
    config = FusionConfig(method=method, iou=iou, min_votes=min_votes)
    fused = fusion.fuse(members, config, one_class_per_image)
    kept = fused.select(fused.votes >= min_votes)
    known = next((each for each in members.values() if isinstance(each, ImageInstances)), None)
    if known is None:
        return kept
    return ImageInstances.of(kept, known.classes, known.image_id, known.pixels, known.path)


def run_rounds(
    config: str | Path | None = None,
    n: int = 3,
    *,
    settings: Mapping[str, Any] | None = None,
    engine: Literal["ray", "inline"] | None = None,
    address: str | None = None,
) -> Run:
    """Bring a run to `n` rounds, as `cellsemi round --n N` does, and return it.

    `config` is a YAML file or the name of a preset (None: ./cellsemi.yaml, else the demo); `settings` change single
    ones of it, such as `{"training.steps": 100}`. What is done already is not done again. A CellsemiError says what
    is wrong; a run whose settings changed is refused.
    """
    import json

    from cellsemi.orchestrator.campaign import bring_to
    from cellsemi.orchestrator.events import SilentWatcher
    from cellsemi.rounds.store.run import open_run

    named = {"engine.kind": engine, "engine.address": address}
    changes = {**(settings or {}), **{key: value for key, value in named.items() if value is not None}}
    loaded = load_config(None if config is None else str(config), [f"{k}={json.dumps(v)}" for k, v in changes.items()])
    paths = open_run(loaded.config)
    bring_to(loaded.config, n, paths, SilentWatcher())
    return Run(paths)


def _own(cells: Instances) -> tuple[str, ...]:
    return cells.classes if isinstance(cells, ImageInstances) else ()


def _class_names(cells: Iterable[Instances]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in cells for name in _own(each)))


def _listed(labels: Labels | Sequence[Labels]) -> list[Instances]:
    if isinstance(labels, Instances | np.ndarray | str | Path):
        return [_cells(labels)]
    return [_cells(each) for each in labels]


def _cells(labels: Labels) -> Instances:
    if isinstance(labels, Instances):
        return labels
    if isinstance(labels, str | Path):
        path = Path(labels)
        if not path.is_file():
            raise UsageError(f"{path}: no such file; expected cells, a label map or the file of one")
        name, labels = str(path), decode_label_map(path.read_bytes(), str(path))
    else:
        name = "the array"
    check_numbered(labels, name)
    return masks.from_label_map(labels, state="human")
