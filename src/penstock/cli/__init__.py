"""The command line: one command a file. It starts things and talks to them like anyone else."""
