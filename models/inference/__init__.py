"""Prediction of large images: tiles, windows, views, scales."""
