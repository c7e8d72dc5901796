"""SSH credentials of users: where they come from."""
