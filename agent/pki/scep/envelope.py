"""The encrypted content of a SCEP message: CMS EnvelopedData with one RSA recipient (RFC 5652, 6; RFC 8894, 3.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers import modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7

from agent.pki import cms_signing, der
from agent.pki.scep.errors import FailInfo, SCEPError, SCEPFailure
from agent.pki.signatures import RSA_ENCRYPTION

MAX_BYTES = 1024 * 1024  # of a SCEP message; most are below 8 KB
MAX_RECIPIENTS = 8

DATA = "1.2.840.113549.1.7.1"
ENVELOPED_DATA = "1.2.840.113549.1.7.3"
_CIPHERTEXT = (0x80, der.CONTEXT_0)  # [0] IMPLICIT OCTET STRING, whole or (BER) in pieces
_VERSION_0 = bytes.fromhex("020100")


class Cipher(Enum):
    """A content encryption algorithm: its object identifier and the size of its key in bytes."""

    AES_128_CBC = ("2.16.840.1.101.3.4.1.2", 16)
    AES_192_CBC = ("2.16.840.1.101.3.4.1.22", 24)
    AES_256_CBC = ("2.16.840.1.101.3.4.1.42", 32)
    DES3_CBC = ("1.2.840.113549.3.7", 24)
    DES_CBC = ("1.3.14.3.2.7", 8)  # never chosen here, but some servers use it for every client

    def __init__(self, oid: str, key_bytes: int) -> None:
        self.oid = oid
        self.key_bytes = key_bytes

    @property
    def block_bytes(self) -> int:
        """The size of a block and of the initialisation vector."""
        return 8 if self in (Cipher.DES3_CBC, Cipher.DES_CBC) else 16

    def with_key(self, key: bytes, vector: bytes) -> BlockCipher[modes.CBC]:
        """The cipher under one key. Raises ValueError for a key or vector of the wrong size."""
        if len(key) != self.key_bytes:
            raise ValueError(f"expected a key of {self.key_bytes} bytes for {self.name}, found {len(key)}")
        if self.block_bytes == 16:
            return BlockCipher(AES(key), modes.CBC(vector))
        # Triple DES (encrypt, decrypt, encrypt) with the same key three times is DES.
        return BlockCipher(TripleDES(key * 3 if self is Cipher.DES_CBC else key), modes.CBC(vector))


class Opened(msgspec.Struct, frozen=True):
    """The content of an envelope, and its cipher."""

    content: bytes
    cipher: Cipher


class _Envelope(msgspec.Struct, frozen=True):
    recipients: tuple[tuple[tuple[bytes, bytes], bytes], ...]
    """Of each RSA recipient: issuer and serial number, and the encrypted key."""
    cipher: Cipher
    vector: bytes
    ciphertext: bytes


def close_envelope(content: bytes, recipient: x509.Certificate, cipher: Cipher) -> bytes:
    """The DER ContentInfo of ``content`` encrypted to ``recipient``, under a new random key.

    Raises SCEPError if the recipient's key is not RSA.
    """
    public_key = rsa_key_of(recipient)
    key, vector = os.urandom(cipher.key_bytes), os.urandom(cipher.block_bytes)
    padder = PKCS7(cipher.block_bytes * 8).padder()
    encryptor = cipher.with_key(key, vector).encryptor()
    ciphertext = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    issuer, serial = cms_signing.issuer_and_serial(recipient)
    recipient_info = der.sequence(
        _VERSION_0,
        der.sequence(issuer, der.encode(der.INTEGER, serial)),
        der.sequence(der.oid(RSA_ENCRYPTION), der.NULL),
        der.encode(der.OCTET_STRING, public_key.encrypt(key, padding.PKCS1v15())),
    )
    encrypted = der.sequence(
        der.oid(DATA),
        der.sequence(der.oid(cipher.oid), der.encode(der.OCTET_STRING, vector)),
        der.encode(_CIPHERTEXT[0], ciphertext),
    )
    enveloped = der.sequence(_VERSION_0, der.set_of(recipient_info), encrypted)
    return der.sequence(der.oid(ENVELOPED_DATA), der.encode(der.CONTEXT_0, enveloped))


def open_envelope(data: bytes, private_key: rsa.RSAPrivateKey, recipient: x509.Certificate | None = None) -> Opened:
    """Decrypt an envelope to ``private_key``.

    With ``recipient``, the envelope must name that certificate. Raises SCEPFailure with badAlg for an unsupported
    algorithm, with badMessageCheck for any other fault.
    """
    if len(data) > MAX_BYTES:
        raise _broken(f"has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        envelope = _read(data)
        keys = _keys_for(envelope, recipient)
    except der.DERError as error:
        raise _broken(f"is not CMS EnvelopedData: {error}") from error
    reason = "has no recipient"
    for encrypted_key in keys:
        try:
            return Opened(_decrypt(envelope, private_key.decrypt(encrypted_key, padding.PKCS1v15())), envelope.cipher)
        except (ValueError, UnsupportedAlgorithm) as error:
            reason = f"does not open with this key: {error}"
    raise _broken(reason)


def rsa_key_of(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """The public key of a SCEP party. Raises SCEPError if it is not RSA, which SCEP requires."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise SCEPError(f"expected a certificate with an RSA key for SCEP, found a {type(key).__name__}")
    return key


def _read(data: bytes) -> _Envelope:
    content_info = der.Fields(der.read(data).expect(der.SEQUENCE, "a CMS ContentInfo"))
    kind = content_info.take(der.OBJECT_IDENTIFIER, "the content type").oid()
    if kind != ENVELOPED_DATA:
        raise _broken(f"has the content type {kind} instead of EnvelopedData ({ENVELOPED_DATA})")
    wrapped = content_info.take(der.CONTEXT_0, "the EnvelopedData").children()
    fields = der.Fields(wrapped[0].expect(der.SEQUENCE, "an EnvelopedData")) if len(wrapped) == 1 else None
    if fields is None:
        raise _broken("has not exactly one EnvelopedData")
    fields.take(der.INTEGER, "the version")
    fields.optional(der.CONTEXT_0)  # originator's certificates
    recipients = fields.take(der.SET, "the recipients").children()
    if len(recipients) > MAX_RECIPIENTS:
        raise _broken(f"has {len(recipients)} recipients, more than {MAX_RECIPIENTS}")
    encrypted = der.Fields(fields.take(der.SEQUENCE, "the encrypted content"))
    encrypted.take(der.OBJECT_IDENTIFIER, "its type")
    algorithm = der.Fields(encrypted.take(der.SEQUENCE, "the cipher"))
    oid = algorithm.take(der.OBJECT_IDENTIFIER, "the cipher").oid()
    cipher = next((known for known in Cipher if known.oid == oid), None)
    if cipher is None:
        raise SCEPFailure(FailInfo.BAD_ALG, f"the envelope is encrypted with the unknown cipher {oid}")
    vector = algorithm.take(der.OCTET_STRING, "the initialisation vector").body
    ciphertext = encrypted.optional(*_CIPHERTEXT)
    if ciphertext is None:
        raise _broken("has no content")
    return _Envelope(tuple(_recipients(recipients)), cipher, vector, ciphertext.octets())


def _recipients(elements: Sequence[der.Element]) -> list[tuple[tuple[bytes, bytes], bytes]]:
    """The KeyTransRecipientInfos that name a certificate by issuer and serial number (RFC 5652, 6.2.1)."""
    found = []
    for element in elements:
        if element.tag != der.SEQUENCE:
            continue  # key agreement, passwords: [1] to [4]
        fields = der.Fields(element)
        fields.take(der.INTEGER, "the version of a recipient")
        named = fields.optional(der.SEQUENCE)
        if named is None:
            continue
        names = der.Fields(named)
        issuer = names.take(der.SEQUENCE, "the recipient's issuer").encoded
        serial = names.take(der.INTEGER, "the recipient's serial number").body
        algorithm = der.Fields(fields.take(der.SEQUENCE, "the key's encryption"))
        oid = algorithm.take(der.OBJECT_IDENTIFIER, "the key's encryption").oid()
        if oid != RSA_ENCRYPTION:
            raise SCEPFailure(FailInfo.BAD_ALG, f"the envelope's key is encrypted with {oid}, not with RSA PKCS#1 v1.5")
        found.append(((issuer, serial), fields.take(der.OCTET_STRING, "the encrypted key").body))
    return found


def _keys_for(envelope: _Envelope, recipient: x509.Certificate | None) -> list[bytes]:
    if recipient is None:
        return [key for _, key in envelope.recipients]
    wanted = cms_signing.issuer_and_serial(recipient)
    keys = [key for names, key in envelope.recipients if names == wanted]
    if not keys:
        raise _broken(f"is not encrypted to {recipient.subject.rfc4514_string()!r}, serial {recipient.serial_number:x}")
    return keys


def _decrypt(envelope: _Envelope, key: bytes) -> bytes:
    decryptor = envelope.cipher.with_key(key, envelope.vector).decryptor()
    padded = decryptor.update(envelope.ciphertext) + decryptor.finalize()
    unpadder = PKCS7(envelope.cipher.block_bytes * 8).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def _broken(what: str) -> SCEPFailure:
    return SCEPFailure(FailInfo.BAD_MESSAGE_CHECK, f"the envelope {what}")
