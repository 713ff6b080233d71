"""Chooses which unlabelled images a person should correct, and reads what the person changed."""
