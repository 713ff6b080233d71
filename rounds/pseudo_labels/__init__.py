"""The method: fusion, thresholds, filter, quality, drift, the training set."""
