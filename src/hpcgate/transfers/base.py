"""What every transfer method has."""

from abc import ABC
from typing import ClassVar

from hpcgate.config import TransferSettings


class Transfer(ABC):
    """A way to move files past the gateway. Found by the entry points ``hpcgate.transfers``.

    Attributes:
        Settings: The model of its settings.
        method: The name that requests use, as ``transferMethod``.
    """

    Settings: ClassVar[type[TransferSettings]]
    method: ClassVar[str]
