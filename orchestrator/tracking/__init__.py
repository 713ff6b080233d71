"""Shows a run to trackers of experiments: curves, scores, pictures. Nothing leaves the machine unless it is asked for."""
