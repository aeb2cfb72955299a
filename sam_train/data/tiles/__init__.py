"""Tiles of large photos: their places, and the parts of objects that lie in them."""
