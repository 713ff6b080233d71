"""Chooses on validation images what a fit leaves open: probabilities, and how long it takes."""
