"""Writes a time span for a person."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> duration(0.31), duration(42.4), duration(187), duration(7380)
    ('0.3 s', '42 s', '3 min 07 s', '2 h 03 min')
    """
    whole = round(seconds)
    if whole < 10:
        return f"{round(seconds, 1):g} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
