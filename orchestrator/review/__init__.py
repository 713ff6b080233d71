"""Hands images to a person for correction, and takes new labels into a run."""
