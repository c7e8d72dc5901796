"""One process that serves: how it starts, speaks HTTP, writes logs and stops."""
