"""Engines: the same job in this process or on Ray."""
