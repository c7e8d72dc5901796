"""The demo and test cluster: a real sshd, Slurm, MariaDB, munge and OpenID provider on this machine.

Everything lives under one temporary directory and on loopback ports that nobody else uses, and is gone after the stop.
Start it with ``with Cluster(Options()) as cluster:`` from `hpcgate.demo.cluster`.
"""
