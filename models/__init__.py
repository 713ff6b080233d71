"""The networks: one small protocol, one file per model family, everything that needs torch."""
