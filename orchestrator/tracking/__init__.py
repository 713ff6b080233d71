"""Shows a run to trackers of experiments. Nothing leaves the machine unless it is asked for."""
