"""The certificate that HTTPS is served with."""

import os
import ssl
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Unusable(Exception):
    """Something that serving needs is of no use; the message says what and why."""


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
        self._stamps = self._look()
        self.context = self._made()

    def __repr__(self) -> str:
        """Tell which file."""
        return f"<Tls {self._certificate}>"

    def changed(self) -> bool:
        """Say whether the files are others than those in use. A file system may hang: call it in a thread."""
        stamps = self._look()
        return stamps != self._stamps and None not in stamps

    def renew(self) -> None:
        """Take up a renewed certificate, for connections from now on. One that is of no use leaves the old one."""
        stamps = self._look()
        if stamps == self._stamps or None in stamps:
            return
        self._stamps = stamps
        try:
            # Both files are judged apart first: a failed load leaves a context without a key that fits.
            self._made()
            self.context.load_cert_chain(self._certificate, self._key)
        except (Unusable, OSError) as error:
            log.error("tls.renewal_failed", certificate=str(self._certificate), reason=str(error))
            return
        log.info("tls.renewed", certificate=str(self._certificate))

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except OSError as error:
            reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else _reason(error)
            raise Unusable(
                f"cannot use the certificate {self._certificate} with the key {self._key}: {reason}"
            ) from None
        return context

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._certificate, self._key))


def _no_password() -> str:
    # Without this OpenSSL asks on the terminal.
    raise Unusable("the private key is encrypted; hpcgate needs it without a passphrase")


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else "no certificate or key in PEM format"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
