"""The machine and the processes of a run: devices, ranks, files, locks, log."""
