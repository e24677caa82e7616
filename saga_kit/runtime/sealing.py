"""Seals secrets that must be stored and read again, with keys that only the services have (Fernet: AES-CBC and HMAC).

A key is replaced without an outage: put the new one first, and drop the old one when everything is sealed anew.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from saga_kit.runtime.errors import KitError


class NotSealed(KitError):  # noqa: N818 - it is what it is
    """A text that none of the keys has sealed."""


class Seal:
    """Seals and opens. `keys` are Fernet keys (32 bytes, URL-safe base64) with commas between, the newest first.

    Raises `ValueError` for what is no key.
    """

    def __init__(self, keys: str) -> None:
        self._fernet = MultiFernet([Fernet(key.strip()) for key in keys.split(",")])

    def seal(self, secret: bytes) -> str:
        """Seal a secret with the newest key. Twice gives two texts."""
        return self._fernet.encrypt(secret).decode()

    def open(self, sealed: str) -> bytes:
        """Return what was sealed; raises `NotSealed`."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise NotSealed("a stored secret can't be opened with WEBHOOKS_KEYS: is a key missing?") from None


def check_keys(value: SecretStr) -> SecretStr:
    """Validate a setting that holds the keys of a `Seal`. Raises `ValueError` with the rule."""
    try:
        Seal(value.get_secret_value())
    except ValueError:  # its text says nothing of how to make one
        raise ValueError("must be Fernet keys (32 bytes in URL-safe base64), with commas between") from None
    return value
