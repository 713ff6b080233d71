"""Predicts images of any size: windows, views, scales."""
