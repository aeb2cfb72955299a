"""Forecasts for a run on a cluster: its cost, and the fitness of the nodes."""
