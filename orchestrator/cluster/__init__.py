"""The cluster before the work: whether each of its nodes can do it."""
