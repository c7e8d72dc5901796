"""SSH to the login nodes: the pool, sessions, files and host keys. asyncssh's errors become ours here."""
