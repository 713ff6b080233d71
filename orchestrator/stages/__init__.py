"""One file a stage of a round."""
