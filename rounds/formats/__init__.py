"""One module per data set format."""
