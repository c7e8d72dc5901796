"""Asking the services of a site, none of which is trusted to be brief, quick or well-formed."""
