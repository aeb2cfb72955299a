"""The verb `doctor`: checks of the nodes that would train, before a run hangs an hour in."""
