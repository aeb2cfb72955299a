"""Weights of every origin: reading, naming, checking and reporting them."""
