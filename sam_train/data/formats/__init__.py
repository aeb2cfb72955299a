"""Formats of data sets: which images there are, and the masks of one of them."""
