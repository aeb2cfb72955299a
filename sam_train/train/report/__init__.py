"""The parts of a run that a person sees: progress, metrics.csv, scores, pictures."""
