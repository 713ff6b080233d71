"""Work over shards of images: one step, several steps in one pass, and the images of a shard that failed."""
