"""The networks: a folder for each model family, and what several families share."""
