"""What can go wrong while a demo cluster is put together."""


class DemoError(Exception):
    """A demo cluster could not do what it was asked for; the message is meant for the person at the terminal."""
