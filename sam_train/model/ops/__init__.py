"""Attention and the small layers that several modules of the model share."""
