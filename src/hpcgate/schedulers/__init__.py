"""Batch schedulers: Slurm, PBS, and what a site adds."""
