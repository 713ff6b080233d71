"""Masks that another tool has written, as a teacher."""
