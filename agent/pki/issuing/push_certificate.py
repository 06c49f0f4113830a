"""A push certificate for tests, in the form of Apple's certificates for MDM, from a private CA.

Source: developer.apple.com/documentation/devicemanagement/sending-mdm-commands-to-a-device (the topic is the ``UID`` of
the subject). The rest is as in certificates of identity.apple.com: the subject's CommonName is ``APSP:`` with the
topic's UUID, and an extension of Apple's, with the value NULL, names the APNs environment.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from agent.errors import OperatorError
from agent.pki.identity import Identity
from agent.pki.issuing.authority import Authority, Usage

TOPIC_PREFIX = "com.apple.mgmt."
APNS_PRODUCTION = x509.ObjectIdentifier("1.2.840.113635.100.6.3.2")  # Apple: "APNs production"; 6.3.1 is the sandbox
LIFETIME = timedelta(days=365)
KEY_BITS = 2048
MAX_TOPIC_CHARACTERS = 255
_NULL = b"\x05\x00"  # DER


def push_identity(authority: Authority, topic: str) -> Identity:
    """A new push certificate for ``topic``, and its RSA key. Raises OperatorError for an invalid MDM topic."""
    good = topic.startswith(TOPIC_PREFIX) and len(TOPIC_PREFIX) < len(topic) <= MAX_TOPIC_CHARACTERS
    if not good or not topic.isascii() or not topic.isprintable() or " " in topic:
        raise OperatorError(f"Expected a topic such as {TOPIC_PREFIX}External.UUID; found {topic[:100]!r}.")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.USER_ID, topic),
            x509.NameAttribute(NameOID.COMMON_NAME, f"APSP:{topic.rpartition('.')[2]}"[:64]),  # RFC 5280: 64 at most
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    certificate = authority.certify(
        key.public_key(),
        subject,
        Usage(client_auth=True),
        not_after=datetime.now(UTC) + LIFETIME,
        more=(x509.UnrecognizedExtension(APNS_PRODUCTION, _NULL),),
    )
    return Identity(certificate, key)
