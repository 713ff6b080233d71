"""Cellpose-SAM, fine-tuned from given weights."""
