"""Writes the fields of MIFA, the recommendations for annotated images that machines learn from.

MIFA is Metadata, Incentives, Formats and Accessibility: Zulueta-Coarasa et al. 2025, "MIFA: Metadata, Incentives,
Formats and Accessibility guidelines to improve the reuse of AI datasets for bioimage analysis", Nature Methods,
doi:10.1038/s41592-025-02835-8. The names of the fields are those of the BioImage Archive's model of it
(https://www.ebi.ac.uk/bioimage-archive/mifa-model-reference/).
"""

from __future__ import annotations

from cellsemi.rounds.report.dataset_facts import DatasetFacts

REFERENCE = "https://www.ebi.ac.uk/bioimage-archive/mifa-model-reference/"

MASKS, OUTLINES = "segmentation_mask", "geometrical_annotations"
# MIFA's type of annotation, by the format that holds it.
TYPES = {
    "coco": MASKS,
    "geojson": OUTLINES,
    "imagej-rois": OUTLINES,
    "kaggle": MASKS,
    "kaggle-columns": MASKS,
    "label-maps": MASKS,
    "measurements": "derived_annotations",
    "overlays": "other",
    "seg-npy": MASKS,
}


def mifa(facts: DatasetFacts) -> dict[str, str]:
    """The fields that are known, by their names in the model; one that nobody knows is left out."""
    lineage = facts.lineage
    found = {
        "annotation_overview": f"{lineage.subject}: {facts.cells} cells in {facts.images} images, a mask for each cell "
        f"({facts.states_in_words}).",
        "annotation_type": TYPES[facts.format],
        "annotation_method": lineage.method,
        "annotation_criteria": lineage.criteria,
        "annotation_coverage": _coverage(facts),
        "annotation_confidence_level": lineage.confidence,
        "spatial_information": _spatial(facts),
    }
    return {name: value for name, value in found.items() if value is not None}


def _coverage(facts: DatasetFacts) -> str:
    """Which images have annotations, and whether they are whole."""
    annotated = facts.images - facts.unseen
    percent = f" ({100 * annotated / facts.images:.4g} %)" if facts.images else ""
    share = f"{annotated} of {facts.images} images in these files were annotated{percent}; "
    share += f"{facts.without_cells - facts.unseen} of these hold no cell."
    if facts.lineage.partly:
        return f"{share} Partial: images may be labelled in part (data.partial of the run)."
    if facts.lineage.by_machine:
        return f"{share} Complete: models searched the whole of each image, and cells that they missed are not marked."
    return f"{share} Complete, as the run was told."


def _spatial(facts: DatasetFacts) -> str:
    """The sizes of the images. Nobody tells cellsemi the size of a pixel, so that no length is stated."""
    sizes = [f"{height} x {width}" for height, width in facts.sizes]
    shown = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}" if sizes else "none"
    return f"2D images of {shown} pixels (height x width); coordinates are in pixels, and their size is not recorded."
