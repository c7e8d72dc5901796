"""Resumable uploads: the tus protocol 1.0, without its HTTP."""
