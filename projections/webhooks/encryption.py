"""Encrypts what a push service carries, so that only the browser reads it (RFC 8291, in the coding of RFC 8188).

Both RFCs name few steps, all of which `cryptography` has: this is all of it, and `docs/adr` says why no library.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.webhooks import PushKeys

RECORD_BYTES: Final = 4096
PLAIN_BYTES_MAX: Final = RECORD_BYTES - 86 - 17
"""What is left for a message in the one record that push services take: its header is 86 bytes, its end 17."""
_SALT_BYTES: Final = 16


def base64url(data: bytes) -> str:
    """Write base64url without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def from_base64url(text: str) -> bytes:
    """Read base64url, with or without padding; raises `ValueError`."""
    bare = text.rstrip("=")
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def public_bytes(key: EllipticCurvePublicKey) -> bytes:
    """Return the 65 bytes of an uncompressed point, as all of these RFCs write a public key."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def encrypt(
    plain: bytes, keys: PushKeys, *, ours: EllipticCurvePrivateKey | None = None, salt: bytes | None = None
) -> bytes:
    """Encrypt a message for one browser, with a key pair and a salt of its own, which only tests give.

    Raises `ValueError` for keys that are none, and for a message of more than `PLAIN_BYTES_MAX` bytes.
    """
    if len(plain) > PLAIN_BYTES_MAX:
        raise ValueError(f"a push message has {PLAIN_BYTES_MAX} bytes at most")
    ours = ours or generate_private_key(SECP256R1())
    salt = salt or os.urandom(_SALT_BYTES)
    theirs = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), from_base64url(keys.p256dh))
    our_public = public_bytes(ours.public_key())
    shared = ours.exchange(ECDH(), theirs)
    info = b"WebPush: info\0" + public_bytes(theirs) + our_public
    secret = _derive(shared, from_base64url(keys.auth), info, 32)
    key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)
    sealed = AESGCM(key).encrypt(nonce, plain + b"\x02", None)  # 2 ends the last record
    return salt + RECORD_BYTES.to_bytes(4) + len(our_public).to_bytes(1) + our_public + sealed


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)
