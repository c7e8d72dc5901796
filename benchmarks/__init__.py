"""Requests a second of the gateway, beside yardsticks that are measured in the same run."""
