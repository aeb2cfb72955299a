"""Command-line tools that make, convert and check SA-1B shards."""
