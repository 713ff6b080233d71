"""What all box detectors share: targets, loss, merging of windows and views."""
