"""Notices what goes wrong in a run, and says where: numbers, processes, memory, speed."""
