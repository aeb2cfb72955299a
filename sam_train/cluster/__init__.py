"""Before a run on a cluster: what it will take, and whether the nodes can do it."""
