"""Kaggle's run-length CSV: reader, writer, pixel order, submission check."""
