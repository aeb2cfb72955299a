"""The verb `plan`: the cost of a run, counted before anything is paid for."""
