"""Exports cells of a run with the metadata that journals and archives ask for."""
