"""What a person reads of a round."""
