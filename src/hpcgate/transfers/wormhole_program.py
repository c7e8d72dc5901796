"""The program of a wormhole job: magic-wormhole's own command, told by the environment what to do.

It runs on a compute node, by whatever Python is there (3.8 or later), and is no part of the gateway: the gateway reads
it as text. Its arguments stay inside the process, so ps does not show the code, and it does not get into the log, which
others on the system may be able to read. It gives up if nobody has come for the file, or brought it, within the time
that it is given, or if nothing has moved for as long after that.
"""

# mypy: ignore-errors
# Written for other Pythons than the gateway's, with packages that the gateway does not have.

import json
import os
import sys
import time

from twisted.internet import reactor
from wormhole import transit
from wormhole.cli import cli, cmd_receive, cmd_send

MOVED = []
"""Holds when something last came or went, once bytes flow."""


class Discreet:
    """A stream that a secret does not get into."""

    def __init__(self, stream, secret):
        self._stream = stream
        self._secret = secret

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write a text without the secret."""
        return self._stream.write(text.replace(self._secret, "(code)"))


def watch(owner, name):
    """Take note of when a method is called."""
    method = getattr(owner, name)

    def noted(*arguments, **options):
        MOVED[:] = [time.monotonic()]
        return method(*arguments, **options)

    setattr(owner, name, noted)


def give_up(seconds):
    """End the process if nothing has begun, or nothing has moved for so long; else look again when that may be so."""
    left = MOVED[0] + seconds - time.monotonic() if MOVED else 0
    if left > 0:
        reactor.callLater(left, give_up, seconds)
        return
    words = (
        "Nothing has moved through the wormhole for" if MOVED else "Nobody was at the other end of the wormhole within"
    )
    sys.stderr.write(f"{words} {seconds:g} seconds.\n")
    sys.stderr.flush()
    os._exit(75)


watch(cmd_send.Sender, "_send_file")
watch(cmd_receive.Receiver, "_transfer_data")
watch(transit.Connection, "dataReceived")
watch(transit.Connection, "send_record")

if __name__ == "__main__":
    limit = float(os.environ.pop("HPCGATE_WAIT"))
    reactor.callLater(limit, give_up, limit)
    code = os.environ.pop("HPCGATE_CODE")
    sys.stdout, sys.stderr = Discreet(sys.stdout, code), Discreet(sys.stderr, code)
    cli.stdout, cli.stderr = sys.stdout, sys.stderr
    cli.wormhole.main(args=json.loads(os.environ.pop("HPCGATE_ARGUMENTS")), prog_name="wormhole")
