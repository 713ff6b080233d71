"""The vocabulary and the arithmetic of a round. Imports neither torch nor Ray: it runs on any laptop."""
