"""Who asks, and may they: tokens and authorisation."""

from hpcgate.auth.principal import Principal

__all__ = ["Principal"]
