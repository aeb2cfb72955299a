"""Mask quality on groups of people (paper §6, C): `evaluate task=fairness`."""
