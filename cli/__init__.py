"""The `ccrop` command: one file a command; click and rich are used here and nowhere else."""
