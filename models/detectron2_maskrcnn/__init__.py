"""Detectron2's Mask R-CNN and Cascade."""
