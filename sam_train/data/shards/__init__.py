"""SA-1B shards: finding, indexing, reading and writing them."""
