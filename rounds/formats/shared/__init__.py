"""Holds what several formats need: folders, CSV and JSON files, detection, overlaps, one file an image."""
