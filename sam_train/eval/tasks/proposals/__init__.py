"""Object proposals: which of the objects are among the best 1000 masks (paper §7.3, D.3)."""
