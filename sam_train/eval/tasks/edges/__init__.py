"""Edges (paper §7.3, D.2): from masks to an edge map, and the BSDS boundary benchmark."""
