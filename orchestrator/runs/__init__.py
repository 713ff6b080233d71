"""Reads a run: progress on disk, export, label issues, report."""
