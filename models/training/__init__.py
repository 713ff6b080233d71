"""The training loop: device, precision, schedule, checkpoints, losses."""
