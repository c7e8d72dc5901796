"""Data in and out: transfer jobs and external services."""
