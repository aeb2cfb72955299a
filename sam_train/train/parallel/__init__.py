"""The division of a step's work among processes; all that is private to DeepSpeed."""
