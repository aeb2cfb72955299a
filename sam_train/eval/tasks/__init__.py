"""Evaluation tasks, a folder each."""
