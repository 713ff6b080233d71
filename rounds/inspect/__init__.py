"""Tells what a folder is: detection, statistics, advice."""
