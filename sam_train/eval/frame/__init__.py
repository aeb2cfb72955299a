"""The frame of every evaluation task: items, records, intervals, results, the report."""
