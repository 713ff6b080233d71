"""Imports what a process that makes crops needs: the server of such processes does it once, for all of them."""

from cellsemi.models.crops import augment, source

__all__ = ["augment", "source"]

augment.load_albumentations()
