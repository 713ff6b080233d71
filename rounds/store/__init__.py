"""The files of a run: schemas, shards, manifests, lock, image codec, paths."""
