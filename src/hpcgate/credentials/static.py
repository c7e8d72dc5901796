"""Keys that stand in the configuration: for tests and for sites with a handful of users."""

import asyncio
from collections.abc import Hashable
from typing import Literal

import asyncssh
from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.config import Model, PluginSettings, Secret
from hpcgate.config.secrets import FileText
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.credentials.certificates import UNREADABLE, expiry, user_certificate
from hpcgate.errors import CredentialRefused


class UserKey(Model):
    """The key of one user."""

    private_key: Secret = Field(description="The private key, in OpenSSH's or PEM's format.")
    public_cert: FileText | None = Field(
        None, description="The OpenSSH user certificate that belongs to it; secret_file:PATH reads it from a file."
    )
    passphrase: Secret | None = Field(None, description="What the private key is encrypted with.")


class StaticKeysSettings(PluginSettings):
    """Keys of users, by name."""

    type: Literal["SSHStaticKeys"] = Field("SSHStaticKeys", description="SSHStaticKeys: a fixed key for each user.")
    keys: dict[str, UserKey] = Field(min_length=1, description="The users' keys, by user name.")


class StaticKeys(CredentialSource):
    """Gives each user the key that the configuration holds; each is read once."""

    Settings = StaticKeysSettings

    def __init__(self, settings: StaticKeysSettings) -> None:
        self._keys = settings.keys
        self._loading: dict[str, asyncio.Task[Credential]] = {}

    @property
    def judges_tokens(self) -> bool:
        """No: the name is all that counts."""
        return False

    def standing(self, principal: Principal) -> Hashable:
        """Nothing but the name counts."""
        return ()

    async def credential(self, principal: Principal) -> Credential:
        """Return the configured key of the user, decrypted.

        Raises:
            CredentialRefused: There is none, or it cannot be read.
        """
        name = principal.username
        key = self._keys.get(name)
        if key is None:
            raise CredentialRefused(f"No SSH key is configured for the user {name}")
        loading = self._loading.get(name)
        if loading is None:
            # bcrypt takes a large part of a second, on purpose.
            loading = asyncio.get_running_loop().create_task(asyncio.to_thread(_read, name, key))
            self._loading[name] = loading
        try:
            return await asyncio.shield(loading)
        except CredentialRefused as error:
            raise CredentialRefused(error.message) from None

    async def close(self) -> None:
        """End what is still being read."""
        for loading in self._loading.values():
            loading.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        self._loading.clear()


def _read(name: str, key: UserKey) -> Credential:
    passphrase = key.passphrase.get_secret_value() or None if key.passphrase is not None else None
    try:
        private_key = asyncssh.import_private_key(_lines(key.private_key.get_secret_value()), passphrase)
    except asyncssh.KeyEncryptionError:
        raise CredentialRefused(
            f"The SSH key configured for the user {name} is encrypted and its passphrase does not fit"
        ) from None
    except UNREADABLE:
        wrong = "its passphrase is missing" if _encrypted(key) and passphrase is None else "it cannot be read"
        raise CredentialRefused(f"The SSH key configured for the user {name} cannot be used: {wrong}") from None
    if key.public_cert is None:
        return Credential(private_key)
    certificate = user_certificate(key.public_cert, private_key, f"The certificate configured for the user {name}")
    return Credential(private_key, certificate, expiry(certificate))


def _encrypted(key: UserKey) -> bool:
    try:
        asyncssh.import_private_key(_lines(key.private_key.get_secret_value()), "")
    except asyncssh.KeyEncryptionError:
        return True
    except UNREADABLE:
        return False
    return False


def _lines(key: str) -> str:
    """Repair a key that went through YAML or an environment variable: no newline at the end, or escaped ones."""
    return key.strip().replace("\\n", "\n") + "\n"
