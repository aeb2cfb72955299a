"""Masks without a model: grids, run lengths, tracing, regions, suppression."""
