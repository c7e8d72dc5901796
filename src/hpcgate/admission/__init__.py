"""Which requests are served, which wait for their turn, and what their bodies may take meanwhile."""
