"""The parameter that says how a file gets new content."""

from typing import Annotated

from fastapi import Query

from hpcgate.ssh.files.protocol import Replacing

ReplaceParameter = Annotated[
    Replacing,
    Query(
        description="How a file that exists gets the new content. atomic: a new file takes its name at once, with its "
        "mode, group and access control list; other hard links keep the old content. in-place: it is overwritten once "
        "all has arrived, and keeps its owner and its hard links; readers may see part of both. auto: atomic, but in "
        "place where the directory lets no other file take its name."
    ),
]
"""Of the requests that store a file."""
