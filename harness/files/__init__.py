"""What is on disk: the schema of a run, files that survive a kill, locks, shared folders."""
