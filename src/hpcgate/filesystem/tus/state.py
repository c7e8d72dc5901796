"""An upload as it stands, and what is kept of it on the login node besides its content."""

import base64
import binascii
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from hpcgate.errors import BadRequest
from hpcgate.filesystem.tus.headers import HEADER_TEXT, MAX_METADATA


class State(BaseModel):
    """What is kept of an upload besides its content.

    Attributes:
        name: The name of the file that is to be, in its directory, in base64.
        length: How many bytes it will have; None if the client has not said yet.
        metadata: The client's own, as it was sent.
        partial: Whether it is only there to become a part of another.
        unverified: From where on a checksum has not been compared yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=400)
    length: int | None = Field(default=None, ge=0, lt=2**63)
    metadata: str = Field(default="", max_length=MAX_METADATA, pattern=HEADER_TEXT)
    partial: bool = False
    unverified: int | None = Field(default=None, ge=0, lt=2**63)

    @classmethod
    def of(cls, name: bytes, length: int | None, metadata: str, *, partial: bool) -> "State":
        """Make the state of a new upload."""
        return cls(name=base64.b64encode(name).decode(), length=length, metadata=metadata, partial=partial)

    @property
    def filename(self) -> bytes:
        """The name of the file that is to be.

        Raises:
            BadRequest: It is none.
        """
        name = self.name_there
        if name is None:
            raise BadRequest("The state of the upload is damaged.")
        return name

    @property
    def name_there(self) -> bytes | None:
        """The same, None if it is none."""
        try:
            name = base64.b64decode(self.name, validate=True)
        except (binascii.Error, ValueError):
            return None
        return None if not name or b"/" in name or b"\0" in name or name in (b".", b"..") else name


@dataclass(frozen=True, slots=True)
class TusUpload:
    """An upload as it stands.

    Attributes:
        id: Its id.
        state: What is kept of it.
        offset: How many bytes there are.
        expires: When it expires if nothing comes, Unix seconds; None for a complete one.
    """

    id: str
    state: State
    offset: int
    expires: int | None

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.offset == self.state.length

    @property
    def unsettled(self) -> bool:
        """Whether it is whole and has not its name yet: whoever should have given it that has ended."""
        return self.complete and not self.state.partial and self.expires is not None
