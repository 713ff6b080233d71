"""The plan of imports that tests/test_architecture.py holds: floors, exceptions, and every arrow between rooms."""

# A room imports only rooms on lower floors of its own package. Within rounds/formats the table is the order.
FLOORS = {
    "rounds": (
        "cells colours duration pulse seeds",
        "calibration drawing storage",
        "store",
        "formats evaluation",
        "datasets pseudo_labels",
        "inspect report review",
        "page",
    ),
    "models": (
        "explanation model_files weight_files weight_sources",
        "base start_weights",
        "crops given inference own_family training",
        "flow detector",
        "cellpose_sam detectron2_maskrcnn flow_unet masks python torchvision_maskrcnn",
        "registry",
        "ranks validation",
    ),
    "orchestrator": (
        "engine",
        "events",
        "steps describe_dataset doctor flow_check run_metrics",
        "stages",
        "runs review cluster tracking",
        "apply metadata",
        "campaign explain",
        "ablation api app terminal",
        "cli",
    ),
}
# This list may only shrink: remove an arrow when nothing needs it any more, add none.
EXCEPTIONS: set[tuple[str, str]] = set()
# room: the rooms that it imports
ALLOWED = {
    "configs": "",
    "rounds/calibration": "configs rounds/cells",
    "rounds/cells": "",
    "rounds/colours": "",
    "rounds/datasets": (
        "configs rounds/cells rounds/evaluation rounds/formats/base rounds/formats/coco rounds/formats/kaggle "
        "rounds/formats/paired rounds/formats/registry rounds/formats/shards rounds/formats/shared "
        "rounds/seeds rounds/store"
    ),
    "rounds/drawing": "rounds/cells rounds/colours",
    "rounds/duration": "",
    "rounds/evaluation": "configs rounds/calibration rounds/cells rounds/duration rounds/seeds rounds/store",
    "rounds/formats/base": "configs rounds/cells rounds/store",
    "rounds/formats/cellpose": (
        "configs rounds/cells rounds/formats/base rounds/formats/label_map rounds/formats/registry "
        "rounds/formats/shared rounds/store"
    ),
    "rounds/formats/coco": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/dsb2018": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/imagej": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/kaggle": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/label_map": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/labelme": (
        "configs rounds/cells rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/measurements": "rounds/cells rounds/formats/base rounds/formats/registry rounds/store",
    "rounds/formats/overlays": (
        "rounds/cells rounds/drawing rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store"
    ),
    "rounds/formats/paired": (
        "configs rounds/formats/base rounds/formats/label_map rounds/formats/registry rounds/formats/shared "
        "rounds/store"
    ),
    "rounds/formats/qupath": (
        "configs rounds/cells rounds/colours rounds/formats/base rounds/formats/registry "
        "rounds/formats/shared rounds/store"
    ),
    "rounds/formats/registry": "configs rounds/formats/base rounds/formats/shared rounds/store",
    "rounds/formats/shards": "configs rounds/formats/base rounds/formats/registry rounds/formats/shared rounds/store",
    "rounds/formats/shared": "configs rounds/cells rounds/formats/base rounds/storage rounds/store",
    "rounds/inspect": (
        "configs rounds/cells rounds/datasets rounds/evaluation rounds/formats/base rounds/formats/paired "
        "rounds/formats/registry rounds/formats/shards rounds/formats/shared rounds/storage rounds/store"
    ),
    "rounds/page": (
        "configs rounds/calibration rounds/cells rounds/colours rounds/drawing rounds/duration "
        "rounds/evaluation rounds/pseudo_labels rounds/report rounds/store"
    ),
    "rounds/pseudo_labels": "configs rounds/calibration rounds/cells rounds/evaluation rounds/store",
    "rounds/pulse": "",
    "rounds/report": (
        "configs rounds/calibration rounds/cells rounds/colours rounds/drawing rounds/evaluation "
        "rounds/formats/base rounds/pseudo_labels rounds/store"
    ),
    "rounds/review": "rounds/cells rounds/store",
    "rounds/seeds": "",
    "rounds/storage": "configs",
    "rounds/store": "configs rounds/cells rounds/pulse rounds/storage",
    "models/base": "configs rounds/cells rounds/store models/model_files",
    "models/cellpose_sam": (
        "configs rounds/seeds rounds/store models/base models/crops models/flow models/given models/inference "
        "models/model_files models/start_weights models/training"
    ),
    "models/crops": "configs rounds/cells rounds/store models/base models/model_files",
    "models/detector": (
        "configs rounds/cells rounds/pseudo_labels rounds/pulse rounds/seeds models/base models/crops "
        "models/explanation models/given models/inference models/model_files models/training "
        "models/weight_files"
    ),
    "models/detectron2_maskrcnn": (
        "configs rounds/store models/base models/detector models/given models/inference models/model_files "
        "models/start_weights models/training models/weight_files"
    ),
    "models/explanation": "rounds/cells",
    "models/flow": "configs rounds/cells models/base models/crops models/explanation models/inference models/training",
    "models/flow_unet": (
        "configs rounds/store models/base models/crops models/flow models/given models/inference "
        "models/model_files models/training"
    ),
    "models/given": (
        "configs rounds/cells rounds/store models/base models/explanation models/model_files models/start_weights"
    ),
    "models/inference": "configs rounds/cells rounds/pulse models/base models/explanation",
    "models/masks": "configs models/base models/given",
    "models/model_files": "configs rounds/store",
    "models/own_family": "configs rounds/store models/base models/model_files",
    "models/python": "configs rounds/store models/base models/given models/model_files models/own_family",
    "models/ranks": "configs models/base models/registry models/training",
    "models/registry": "configs models/base models/given models/inference models/model_files",
    "models/start_weights": "configs rounds/store models/model_files models/weight_files",
    "models/torchvision_maskrcnn": (
        "configs models/base models/detector models/given models/inference models/model_files "
        "models/start_weights models/training models/weight_files"
    ),
    "models/training": (
        "configs rounds/pulse rounds/store models/base models/model_files models/start_weights models/weight_files"
    ),
    "models/validation": (
        "configs rounds/cells rounds/evaluation rounds/seeds rounds/store models/base models/inference "
        "models/model_files models/registry models/training"
    ),
    "models/weight_files": "configs rounds/store",
    "models/weight_sources": "",
    "orchestrator/ablation": (
        "configs rounds/evaluation rounds/store orchestrator/campaign orchestrator/engine orchestrator/events "
        "orchestrator/runs"
    ),
    "orchestrator/api": (
        "configs rounds/cells rounds/evaluation rounds/formats/label_map rounds/formats/measurements "
        "rounds/formats/overlays rounds/formats/registry rounds/formats/shared rounds/pseudo_labels "
        "rounds/store orchestrator/apply orchestrator/campaign orchestrator/events orchestrator/explain "
        "orchestrator/runs"
    ),
    "orchestrator/app": (
        "configs rounds/cells rounds/colours rounds/datasets rounds/drawing rounds/evaluation "
        "rounds/formats/shared rounds/inspect rounds/page rounds/pseudo_labels rounds/review rounds/store "
        "orchestrator/apply orchestrator/explain orchestrator/review"
    ),
    "orchestrator/apply": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/evaluation rounds/formats/base "
        "rounds/formats/shared rounds/pseudo_labels rounds/store models/base models/explanation "
        "models/inference models/model_files models/registry models/validation orchestrator/engine "
        "orchestrator/events orchestrator/runs"
    ),
    "orchestrator/campaign": (
        "configs rounds/evaluation rounds/store orchestrator/engine orchestrator/events "
        "orchestrator/run_metrics orchestrator/runs orchestrator/stages orchestrator/steps "
        "orchestrator/tracking"
    ),
    "orchestrator/cli": (
        "configs rounds/cells rounds/datasets rounds/evaluation rounds/inspect rounds/report rounds/store "
        "models/model_files models/registry models/start_weights models/training models/weight_files "
        "models/weight_sources orchestrator/ablation orchestrator/app orchestrator/apply orchestrator/campaign "
        "orchestrator/cluster orchestrator/describe_dataset orchestrator/doctor orchestrator/engine "
        "orchestrator/explain orchestrator/flow_check orchestrator/metadata orchestrator/review orchestrator/runs "
        "orchestrator/terminal orchestrator/tracking"
    ),
    "orchestrator/cluster": (
        "configs rounds/storage rounds/store models/start_weights orchestrator/engine orchestrator/stages"
    ),
    "orchestrator/describe_dataset": (
        "configs rounds/datasets rounds/formats/base rounds/formats/shared rounds/inspect rounds/report rounds/store"
    ),
    "orchestrator/doctor": "models/registry models/training orchestrator/engine",
    "orchestrator/engine": "configs rounds/storage rounds/store models/inference models/training",
    "orchestrator/events": "orchestrator/engine",
    "orchestrator/explain": (
        "configs rounds/cells rounds/colours rounds/drawing rounds/evaluation rounds/formats/shared "
        "rounds/pseudo_labels rounds/store models/explanation orchestrator/apply orchestrator/runs"
    ),
    "orchestrator/flow_check": "configs rounds/cells rounds/datasets rounds/store models/flow",
    "orchestrator/metadata": (
        "configs rounds/datasets rounds/evaluation rounds/formats/base rounds/inspect rounds/pseudo_labels "
        "rounds/report rounds/store models/model_files orchestrator/runs"
    ),
    "orchestrator/review": (
        "configs rounds/cells rounds/datasets rounds/formats/base rounds/formats/registry "
        "rounds/formats/shared rounds/inspect rounds/pseudo_labels rounds/report rounds/review rounds/store"
    ),
    "orchestrator/run_metrics": "orchestrator/engine orchestrator/events",
    "orchestrator/runs": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/duration rounds/evaluation "
        "rounds/formats/base rounds/formats/shards rounds/inspect rounds/page rounds/pseudo_labels "
        "rounds/report rounds/seeds rounds/store models/base models/model_files models/registry "
        "models/validation models/weight_files orchestrator/engine orchestrator/events"
    ),
    "orchestrator/stages": (
        "configs rounds/calibration rounds/cells rounds/datasets rounds/evaluation rounds/inspect "
        "rounds/pseudo_labels rounds/review rounds/seeds rounds/store models/base models/model_files "
        "models/own_family models/registry models/start_weights models/training models/validation "
        "orchestrator/engine orchestrator/steps"
    ),
    "orchestrator/steps": (
        "configs rounds/calibration rounds/cells rounds/pseudo_labels rounds/pulse rounds/store models/base "
        "models/inference models/model_files models/ranks models/registry models/training models/validation "
        "orchestrator/engine orchestrator/events"
    ),
    "orchestrator/terminal": (
        "configs rounds/datasets rounds/duration rounds/evaluation rounds/formats/base rounds/formats/shared "
        "rounds/inspect rounds/store orchestrator/apply orchestrator/cluster orchestrator/describe_dataset "
        "orchestrator/doctor orchestrator/engine orchestrator/events orchestrator/flow_check "
        "orchestrator/review orchestrator/runs"
    ),
    "orchestrator/tracking": "configs rounds/evaluation rounds/storage rounds/store models/model_files",
}
