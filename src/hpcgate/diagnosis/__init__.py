"""A configuration held against the real world: what answers, what is accepted, and what to do about the rest."""
