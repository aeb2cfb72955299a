"""Object proposals: the recall of objects by the best 1000 masks (paper §7.3, D.3)."""
