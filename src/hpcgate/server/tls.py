"""The certificate that HTTPS is served with."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from hpcgate.config.watched import Watched
from hpcgate.threads import within

log = structlog.get_logger(__name__)

MAX = 1024 * 1024
"""Bytes of either file, at most."""
READING = 10.0
"""Seconds that the files may take to be read at the start."""


class Unusable(Exception):
    """Something that serving needs is of no use; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is in the two files.

    Attributes:
        certificate: The certificate and its chain (PEM).
        key: Its private key (PEM).
    """

    certificate: bytes
    key: bytes

    def load(self, context: ssl.SSLContext) -> None:
        """Load them from memory, for OpenSSL takes files only and theirs may hang.

        Raises:
            OSError: They do not belong together, or are none.
            Unusable: The key is encrypted.
        """
        with _file(self.certificate) as certificate, _file(self.key) as key:
            context.load_cert_chain(certificate, key, password=_no_password)


class Tls:
    """A certificate from files, in use for TLS 1.2 and later, and looked at again when the files change.

    Args:
        certificate: The certificate and its chain (PEM).
        key: Its private key (PEM); None is in the same file.

    Raises:
        Unusable: They cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._files = Watched("tls.files", Pair, self._certificate, self._key, most=MAX)
        self._told = ""
        try:
            self._pair = pair = within(READING, self._files.read)
            self.context = self._made(pair)
        except TimeoutError:
            raise self._unusable(f"they cannot be read within {READING:g} s") from None
        except OSError as error:
            raise self._unusable(_reason(error)) from None

    def __repr__(self) -> str:
        """Tell which file."""
        return f"<Tls {self._certificate}>"

    def changed(self) -> Pair | None:
        """Return what the files hold if they are others than those last seen. They may hang: call it in a thread."""
        try:
            pair = self._files.read()
        except FileNotFoundError:
            return None  # it is being replaced
        except OSError as error:
            reason = _reason(error)
            if reason != self._told:
                self._failed(reason)
            self._told = reason
            return None
        self._told = ""
        return None if pair is self._pair else pair

    def renew(self, pair: Pair) -> None:
        """Take up a renewed certificate, for connections from now on. One that is of no use leaves the old one."""
        self._pair = pair
        try:
            # Both are judged apart first: a failed load leaves a context without a key that fits.
            self._made(pair)
            pair.load(self.context)
        except Unusable as error:
            self._failed(str(error))
        except OSError as error:
            self._failed(_reason(error))
        else:
            log.info("tls.renewed", certificate=str(self._certificate))

    def _failed(self, reason: str) -> None:
        log.error("tls.renewal_failed", certificate=str(self._certificate), reason=reason)

    def _unusable(self, reason: str) -> Unusable:
        return Unusable(f"cannot use the certificate {self._certificate} with the key {self._key}: {reason}")

    def _made(self, pair: Pair) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        pair.load(context)
        return context


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Give a name to content that no disk ever sees."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> str:
    # Without this OpenSSL asks on the terminal.
    raise Unusable("the private key is encrypted; hpcgate needs it without a passphrase")


def _reason(error: OSError) -> str:
    if error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason).replace("_", " ").lower()
    return "no certificate or key in PEM format" if isinstance(error, ssl.SSLError) else str(error)
