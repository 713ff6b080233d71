"""Chooses which unlabelled images a person should correct, and keeps what people have labelled since a run began."""
