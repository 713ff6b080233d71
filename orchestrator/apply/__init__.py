"""Applies what a run made: predicts new images, scores labelled ones, writes submissions and model folders."""
