"""Who asks, and may they: tokens and authorisation."""

from hpcgate.auth.authorizer import Authorizer, Everyone
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.openfga import OpenFga
from hpcgate.auth.principal import Principal
from hpcgate.auth.tokens import TokenVerifier, bearer

__all__ = ["Authorizer", "Everyone", "Jwks", "OpenFga", "Principal", "TokenVerifier", "bearer"]
