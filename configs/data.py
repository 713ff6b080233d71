"""Defines the settings of the data: where the images come from, how their cells are stored, what is cleaned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.base import MAX_AREA_PX, MAX_SEED, Factor, Fraction, Section
from cellsemi.configs.formats import FORMATS, READABLE, entry_of

Split = Literal["labelled", "unlabelled", "val", "test"]
GENERATED = "generated"  # the one source that is no format
if TYPE_CHECKING:
    Source = str
else:
    Source = Literal[(GENERATED, *READABLE)]
Place = str | dict[Split, str]

IGNORE: Literal["ignore"] = "ignore"  # in data.class_map: cells that leave the loss and the score
DROP: Literal["drop"] = "drop"  # in data.class_map: what is no cell, such as a region that holds cells
PARTIAL_ALL: Literal["all"] = "all"  # data.partial: of no image are all cells labelled
EVERY_OTHER = "*"  # in data.class_map: every name that is not named otherwise


def class_called(name: str, class_map: Mapping[str, str], classes: Sequence[str]) -> str | None:
    """The class of a run, IGNORE or DROP, that a foreign class name stands for; None when nothing says it.

    A name is looked up in `class_map`, then in `classes`, then under EVERY_OTHER in `class_map`.
    """
    return class_map.get(name) or (name if name in classes else class_map.get(EVERY_OTHER))


class GeneratedConfig(Section):
    """The generated phase-contrast-like cells of the demo (`data.source: generated`)."""

    labelled: int = Field(12, ge=1, le=100_000, description="Labelled images to train on.")
    unlabelled: int = Field(48, ge=0, le=100_000, description="Unlabelled images, which the rounds label.")
    val: int = Field(12, ge=1, le=100_000, description="Labelled images that choose thresholds and judge promotion.")
    test: int = Field(
        18, ge=1, le=100_000, description="Labelled images that are scored once per model and choose nothing."
    )
    height_px: int = Field(192, ge=64, le=4096, description="Image height.")
    width_px: int = Field(256, ge=64, le=4096, description="Image width.")
    magnifications: tuple[Factor, ...] = Field(
        (1.0,),
        min_length=1,
        description="Magnifications of the unlabelled, val and test images, relative to that of the labelled "
        "images; their wells take turns.",
    )
    densities: tuple[Factor, Factor] = Field(
        (1.0, 1.0),
        description="Fewest and most cells per area of the dish in the wells of the unlabelled, val and test "
        "images, relative to those of the labelled images.",
    )

    @field_validator("magnifications")
    @classmethod
    def _magnifications_are_in_bounds(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.25 <= each <= 8 for each in value):
            raise ValueError(f"expected magnifications from 0.25 to 8, got {list(value)}")
        return value

    @field_validator("densities")
    @classmethod
    def _densities_rise(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError(f"expected the fewest before the most, from 0.1 to 10, got {list(value)}")
        return value


class CleanConfig(Section):
    """What is mended in the human masks as they are read; every change is counted and reported."""

    redraw_px: int = Field(
        0,
        ge=0,
        le=50,
        description="Close gaps of up to this many pixels, then fill the outer contour; 0: do not.",
    )
    fill_holes: bool = Field(False, description="Fill the holes of every mask.")
    parts: Literal["keep", "largest", "split"] = Field(
        "keep", description="Masks of several parts: keep them, keep the largest part, or make each part a cell."
    )
    drop_duplicates: bool = Field(False, description="Of several cells with the very same mask keep the first.")
    min_area_px: int = Field(0, ge=0, le=MAX_AREA_PX, description="Drop cells (and parts) that are smaller than this.")

    @property
    def active(self) -> bool:
        """Whether anything is to be done at all."""
        return self != CleanConfig()


class PartialConfig(Section):
    """What was labelled where people did not label whole images; the rest is neither learnt nor scored."""

    value: int | None = Field(
        None,
        ge=1,
        le=2**32 - 1,
        description="Label maps: pixels of this value were not labelled; an image without it is whole.",
    )
    regions: tuple[str, ...] = Field(
        (),
        description="Classes of annotations that outline what was labelled, as QuPath's rectangles `Training` and "
        "`Validation`; they are no cells. An image without one is whole.",
    )
    background: tuple[str, ...] = Field(
        (), description="Classes of annotations that outline background; they are no cells."
    )
    only_cells: tuple[Literal["labelled", "val", "test"], ...] = Field(
        (),
        description="Splits of whose images only some cells were labelled: what is neither a cell nor in an annotation "
        "of `background` was not labelled. `true`: all three.",
    )
    ring_px: int = Field(
        0, ge=0, le=100, description="`only_cells`: so many pixels around each cell are background where no cell is."
    )

    @property
    def active(self) -> bool:
        """Whether any image may be partly labelled."""
        return self != PartialConfig()

    @field_validator("only_cells", mode="before")
    @classmethod
    def _all_splits(cls, value: object) -> object:
        return {True: ("labelled", "val", "test"), False: ()}[value] if isinstance(value, bool) else value

    @field_validator("regions", "background", mode="before")
    @classmethod
    def _one_name(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """`all`, the value of the label map, or the class of the regions, instead of a section."""
        if value == PARTIAL_ALL:
            return {"only_cells": True}
        if isinstance(value, int) and not isinstance(value, bool):
            return {"value": value}
        return {"regions": value} if isinstance(value, str | list | tuple) else value

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        both = sorted(set(self.regions) & set(self.background))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be a class of regions and of background")
        if self.ring_px and not self.only_cells:
            raise ValueError("ring_px goes with only_cells: elsewhere all that no cell covers is background")
        return self


class DataConfig(Section):
    """Where the images come from and which of them are used."""

    source: Source = Field(
        GENERATED,
        description="".join(
            ("`generated` cells", *(f"; `{entry.name}`: {entry.layout}" for entry in FORMATS if entry.reads), ".")
        ),
    )
    root: str | None = Field(
        None, description="Folder of the data set, or an address (s3://, gs://), for every source but `generated`."
    )
    manifest: str = Field(
        "manifest.csv", description="`label-maps`: CSV below `root` with the columns `id` and `split`."
    )
    images: Place = Field(
        "images",
        description=(
            "Folder of the images below `root`, or one per split: `{labelled: a, unlabelled: b}`. What is not named as "
            "val or test is drawn from `labelled`, by group."
        ),
    )
    masks: Place = Field(
        "masks", description="`label-maps`, `paired`: folder of the masks below `root`, or one per split."
    )
    annotations: Place | None = Field(
        None, description="`rle-csv`, `coco`: the CSV or JSON file below `root`, or one per split."
    )
    image_suffix: str = Field("", description="`paired`: end of an image's name before the extension, e.g. `_img`.")
    mask_suffix: str = Field("_masks", description="`paired`: end of a mask's name before the extension.")
    crowds: Literal["ignored", "cells"] = Field(
        "ignored",
        description="`coco`: annotations with `iscrowd: 1` are ignored regions, or cells (CVAT marks masks that were "
        "drawn with the brush so).",
    )
    pixel_order: Literal["auto", "row", "column"] = Field(
        "auto", description="`rle-csv`: order of the run lengths; `auto` reads it off the data, or refuses to guess."
    )
    classes: tuple[str, ...] = Field(("cell",), min_length=1, description="Class names; their order is the class id.")
    class_map: dict[str, str] = Field(
        default_factory=dict,
        description="Names in the data to `classes`, to `ignore` (neither learnt nor scored) or to `drop` (no cell: a "
        "region that holds cells); `*`: all others.",
    )
    class_column: str | None = Field(
        None, description="`label-maps`, `rle-csv`: column with the class of a whole image."
    )
    class_pattern: str | None = Field(
        None, description="Regular expression on an image's path below `root`; its group is the class of the image."
    )
    group_column: str | None = Field(
        None,
        description=(
            "`label-maps`, `rle-csv`: column of the sample, plate or well; no group may stand on two sides of a split."
        ),
    )
    group_pattern: str | None = Field(
        None, description="Regular expression on an image's path below `root`; its group is the sample, plate or well."
    )
    where: dict[str, str] = Field(
        default_factory=dict,
        description="`label-maps`: only the manifest rows with these values, e.g. `modality: fluorescence`.",
    )
    val_fraction: float = Field(
        0.15, gt=0, lt=1, description="Share of the annotated images drawn for val when the data names none."
    )
    test_fraction: float = Field(
        0.15, gt=0, lt=1, description="Share of the annotated images drawn for test when the data names none."
    )
    split_seed: int = Field(
        0, ge=0, le=MAX_SEED, description="Draws val and test; apart from run.seed, so that seeds share a test."
    )
    labelled_limit: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="Train on this many labelled images, drawn by `run.seed`; null takes all; 0 with teachers alone.",
    )
    limit_rest: Literal["leave out", "unlabelled"] = Field(
        "leave out",
        description="Images that `labelled_limit` does not draw: left out, or made unlabelled, their labels hidden.",
    )
    one_class_per_image: bool = Field(
        False,
        description="All cells of an image have one class: predictions take the image's, pseudo-labels the stated one.",
    )
    orientation: Literal["refuse", "apply", "ignore"] = Field(
        "refuse",
        description="An image file that asks to be shown turned (EXIF orientation): put it aside, turn it as it is "
        "shown, or take its pixels as stored. Annotation tools differ in this.",
    )
    max_pixels: int = Field(
        100_000_000, ge=1, le=MAX_AREA_PX, description="An image with more pixels in its header is quarantined unread."
    )
    max_quarantined: Fraction = Field(
        0.2, description="The run stops when a larger share of the images than this cannot be used."
    )
    shard_images: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto",
        description="Images per Parquet shard, the unit of work and of resume; `auto`: eight shards for each worker "
        "that the run begins with, of at most 256 images.",
    )
    licence: str | None = Field(
        None,
        min_length=1,
        description="Licence of the images and labels, for the model card: `CC0-1.0`; null: unknown.",
    )
    label_issues: str | None = Field(
        None,
        description=(
            "Table of `cellsemi data label-issues` (label_issues.csv, .parquet): the labelled or val cells of it are "
            "ignored, neither learnt nor scored. Take out the rows of cells that are right."
        ),
    )
    partial: PartialConfig = Field(
        default_factory=PartialConfig,
        description="Images that were labelled in part; short: a value of the label maps, the class of the regions, or "
        "`all` (`only_cells: true`).",
    )
    clean: CleanConfig = Field(default_factory=CleanConfig, description="Mending of the human masks, all counted.")
    generated: GeneratedConfig = Field(default_factory=GeneratedConfig, description="Sizes of the generated data set.")

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value) or {IGNORE, DROP} & set(value):
            words = f"not {IGNORE!r} or {DROP!r}"
            raise ValueError(f"class names must be distinct, not empty and {words}, got {list(value)}")
        return value

    @field_validator("class_pattern", "group_pattern")
    @classmethod
    def _pattern_has_one_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"expected one group in parentheses, got {groups}")
        return value

    @model_validator(mode="after")
    def _sources_have_what_they_need(self) -> Self:
        if self.source == GENERATED:
            return self
        if self.root is None:
            raise ValueError(f"data.root is missing: `--set data.root=FOLDER` names the folder of the {self.source}")
        if self.source == "label-maps" and len(self.classes) > 1 and not (self.class_column or self.class_pattern):
            raise ValueError("data.class_column is missing: label maps with several classes need it")
        for name in entry_of(self.source).needs:
            if getattr(self, name) is None:
                raise ValueError(f"data.{name} is missing: it names the file of the {self.source} below data.root")
        if self.source == "label-maps" and not (isinstance(self.images, str) and isinstance(self.masks, str)):
            raise ValueError("data.images and data.masks name one folder each: the manifest says the splits")
        return self

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        targets = [*self.classes, IGNORE, DROP]
        unknown = sorted(set(self.class_map.values()) - set(targets))
        if unknown:
            raise ValueError(f"data.class_map leads to {unknown}, expected {targets}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("data.val_fraction and data.test_fraction leave nothing to learn from")
        for name in ("images", "masks", "annotations"):
            place = getattr(self, name)
            if isinstance(place, dict) and "labelled" not in place and not {"val", "test"} <= place.keys():
                raise ValueError(
                    f"data.{name} names no `labelled`; without it `val` and `test` need places of their own"
                )
        return self
