"""One file per command group: arguments and printing, nothing else."""
