"""Explains what a run made of one image: each cell, each model, and what the filter said of it as a pseudo-label."""
