"""From scores to probabilities: calibration curves, and how reliable they are."""
