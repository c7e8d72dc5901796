"""The wire models, one module a part of the API."""
