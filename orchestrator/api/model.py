"""Defines Model: trained models that predict together, loaded and ready."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellsemi.orchestrator.api.instances import ImageInstances
from cellsemi.orchestrator.apply.asked_cutoffs import Asked, asked_cutoffs
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.images import find_images
from cellsemi.orchestrator.apply.predict_files import read_pixels
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.explain.explain import Explained, explain, find_picture
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.store.image_codec import plain_image

ImageLike = str | Path | NDArray[Any]


class Model:
    """Trained models that predict together, with everything that was chosen for them: `run.delivered.load()`.

    `classes` names what `class_id` counts; `cutoffs` were chosen on validation images; `title` says what it is.
    """

    def __init__(self, model: TrainedModel, device: str = "auto") -> None:
        """Load the members onto a device: `auto` (CUDA when there is one), `cpu`, `cuda`.

        ModelError when a file of a member is missing or altered, or a package is missing.
        """
        self._recipe = model.recipe
        self._predictor = EnsemblePredictor(model, device)
        self.classes: tuple[str, ...] = model.recipe.classes
        self.cutoffs: Cutoffs = model.recipe.cutoffs
        self.title: str = model.recipe.title

    def __repr__(self) -> str:
        members = ", ".join(member.name for member in self._recipe.members)
        return f"Model({self.title}: {members}; classes {', '.join(self.classes)})"

    def predict(self, image: ImageLike, *, min_score: Asked = None, min_area_px: Asked = None) -> ImageInstances:
        """The cells of one image: a file (PNG, JPEG, TIFF) or an array.

        An array is (H, W), or (H, W, C) with 1, 3 or 4 (alpha last) channels, of whole or real numbers; its values
        are scaled by the image's own dark and bright ends, as those of a file are. `min_score` and `min_area_px` take
        the place of what was chosen on validation images; a mapping names classes. What a model must tell, such as a
        limit that was reached, is a UserWarning. ImageError when the image cannot be read or used.
        """
        keep = asked_cutoffs(min_score, min_area_px, self.cutoffs, self.classes)
        path = "" if _is_array(image) else str(image)
        image_id = split_extension(Path(path).name)[0] if path else "image"
        pixels = read_pixels(path, self._recipe.max_pixels) if path else plain_image(image, "the array")  # type: ignore[arg-type]
        cells = keep.kept(self._predictor.predict([pixels])[0])
        for sentence in self._predictor.warnings:
            warnings.warn(f"{path or 'the array'}: {sentence}", stacklevel=2)
        self._predictor.clear_warnings()
        return ImageInstances.of(cells, self.classes, image_id, pixels, path)

    def explain(self, image: str | Path, *, min_score: Asked = None, min_area_px: Asked = None) -> Explained:
        """What each member computed for an image file, and why each cell was kept or dropped; see `cellsemi.explain`.

        The models are loaded already, so that many images cost no more than their predictions.
        """
        keep = asked_cutoffs(min_score, min_area_px, self.cutoffs, self.classes)
        return explain(self._predictor, find_picture(str(image), self._recipe.max_pixels, None), keep)

    def predict_each(
        self, images: str | Path | Iterable[ImageLike], *, min_score: Asked = None, min_area_px: Asked = None
    ) -> Iterator[ImageInstances]:
        """The cells of many images, one after another: a folder, a pattern, or files and arrays.

        `cellsemi predict` does the same for thousands of files: on all GPUs, resumed after a crash, bad images put
        aside.
        """
        if isinstance(images, str | Path):
            images = [file.path for file in find_images([str(images)]).images]
        for image in images:
            yield self.predict(image, min_score=min_score, min_area_px=min_area_px)


def _is_array(image: ImageLike) -> bool:
    return not isinstance(image, str | Path)
