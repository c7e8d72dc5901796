"""Slurm by slurmrestd, its HTTP interface: https://slurm.schedmd.com/rest_api.html"""
