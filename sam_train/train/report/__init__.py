"""What a person sees of a run: progress, metrics.csv, scores, pictures."""
