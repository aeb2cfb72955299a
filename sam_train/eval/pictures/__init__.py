"""Filmstrips of a model at work."""
