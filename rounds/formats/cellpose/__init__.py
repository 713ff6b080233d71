"""Cellpose's `_seg.npy`, read without unpickling."""
