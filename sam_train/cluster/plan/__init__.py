"""What a run will cost, counted before anything is paid for: the verb `plan`."""
