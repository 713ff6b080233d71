"""How a step is done: once and recorded, over shards, several in one pass, image by image where a shard failed."""
