"""How the work of a step is divided among processes; all that is private to DeepSpeed."""
