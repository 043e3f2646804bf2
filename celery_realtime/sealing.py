"""Seal what is kept of jobs, so that nobody reads or changes it who has no secret key."""

from __future__ import annotations

import base64
import math
from typing import Any

from celery_realtime.lazy import Lazy

#: What the keys are derived for: no other use of the same secret has them. A change of the format changes it.
PURPOSE = b"celery-realtime: kept messages, 1"

_KEY_LENGTH = 32


class Unsealable(Exception):
    """It was not sealed with one of the secrets, or too long ago, or has been changed."""


class Sealer:
    """Seals bytes with Fernet (AES-CBC and HMAC), and opens them; ``cryptography`` is loaded when it is first used.

    Args:
        secrets: The first one seals, all of them open.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._fernet = Lazy(lambda: _fernet_of(secrets))

    def seal(self, content: bytes) -> bytes:
        """Return bytes sealed."""
        sealed: bytes = self._fernet.get().encrypt(content)
        return sealed

    def open(self, sealed: bytes, ttl: float) -> bytes:
        """Return what has been sealed.

        Args:
            sealed: What :meth:`seal` has returned, in whatever process.
            ttl: Seconds after which it is not opened any more.

        Raises:
            Unsealable: It cannot be opened.
        """
        from cryptography.fernet import InvalidToken

        try:
            content: bytes = self._fernet.get().decrypt(sealed, ttl=math.ceil(ttl))
        except InvalidToken:
            raise Unsealable("not sealed with a key that is known here, or too long ago, or changed") from None
        return content


def sealer_of(secret_key: str | tuple[str, ...] | None) -> Sealer | None:
    """Return what seals with the setting ``secret_key``; None if that is not set."""
    if not secret_key:
        return None
    return Sealer((secret_key,) if isinstance(secret_key, str) else tuple(secret_key))


def _fernet_of(secrets: tuple[str, ...]) -> Any:
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(base64.urlsafe_b64encode(_derived(secret))) for secret in secrets])


def _derived(secret: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), _KEY_LENGTH, salt=None, info=PURPOSE).derive(secret.encode(errors="surrogatepass"))
