"""Reads and writes data formats: a folder or a module each, listed in configs/formats.py."""
