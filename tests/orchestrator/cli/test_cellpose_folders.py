"""Folders as Cellpose's GUI and command line leave them: whose masks are the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import Drawn, case, drawn, imported, inspected, refused, roi_set, same_cells, save, shown

Suffixes = dict[str, str]


def gui_file(path: Path, labels: Any) -> None:
    """A _seg.npy as the GUI saves it, as far as it is read."""
    saved = {"masks": labels, "outlines": labels, "filename": "x", "ismanual": np.zeros(3, bool), "flows": []}
    np.save(path, np.array(saved, dtype=object), allow_pickle=True)


@pytest.fixture
def pictures() -> list[Drawn]:
    return [drawn(number) for number in range(1, 5)]


# --- 18: corrected masks beside those of the model ----------------------------------------------------------


def test_what_was_corrected_comes_before_what_a_model_found(tmp_path: Path) -> None:
    assert imported(case(18), tmp_path / "x").cells == 12


@pytest.mark.parametrize("ending", ["_cp_masks.png", "_cp_masks.tif"])
def test_generated_masks_of_a_model_beside_corrected_ones(tmp_path: Path, pictures: list[Drawn], ending: str) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / f"{picture.name}{ending}", np.where(picture.labels == 1, 0, picture.labels))
        gui_file(tmp_path / "data" / f"{picture.name}_seg.npy", picture.labels)
    found = imported(tmp_path / "data", tmp_path / "x")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
    stated = ("data.source=paired", "data.images=.", "data.masks=.", "data.mask_suffix=_cp_masks")
    assert imported(tmp_path / "data", tmp_path / "y", *stated).cells == 8


def test_a_few_corrected_files_among_many_of_a_model_are_not_chosen_between(
    tmp_path: Path, pictures: list[Drawn]
) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / f"{picture.name}_cp_masks.png", picture.labels)
    assert "4 annotation files were written by a model of Cellpose" in shown(tmp_path / "data")
    gui_file(tmp_path / "data" / "im1_seg.npy", pictures[0].labels)
    message = refused(tmp_path / "data", tmp_path / "x")
    assert "4 images have _cp_masks files" in message and "1 have _seg.npy files" in message
    assert "data.mask_suffix=_seg" in message


# --- 08: outlines as ImageJ ROIs ----------------------------------------------------------------------------


def test_roi_sets_of_cellpose_are_found_by_their_suffix(tmp_path: Path) -> None:
    data = case(8)
    assert inspected(data)["data"]["mask_suffix"] == "_rois"
    assert imported(data, tmp_path / "x").cells == 12


def test_generated_roi_sets_of_cellpose(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.tif", picture.pixels)
        roi_set(tmp_path / "data" / f"{picture.name}_rois.zip", picture.cells)
    found = imported(tmp_path / "data", tmp_path / "x")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
