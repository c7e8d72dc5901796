"""Commands on a login node: quoted, run, fed, read and ended."""
