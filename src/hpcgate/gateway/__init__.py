"""The systems and all that a route can reach: what opens, what a reload carries over, and what closes."""
