"""Telling what a folder is: rules, pairs, statistics, advice."""
