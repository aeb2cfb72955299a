"""The state of a run on disk: saving, retention, resuming."""
