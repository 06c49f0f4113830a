"""The lab's user channels: network users authenticate, and each user has a push token, a queue and results. No I/O.

A user is stored like a Mac, under ``UDID:USERID``: commands are queued for that name, and pushes go to its token.
The lab authenticates a network user with the password of the simulated Macs, or does not manage it.
Source: apple-schema checkin/userauthenticate.yaml, checkin/tokenupdate.yaml.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec.structs import replace

from agent import plists
from agent.device.users.channel import PASSWORD
from agent.lab.mdm.messages import Refused, check_topic, push_keys_of, text_of
from agent.lab.stored.state import EnrolledMac, LabState
from agent.mdm.digest import DigestRefused, digest, parts_of
from agent.pki.names import ascii_lower, ascii_upper

UserPolicy = Literal["digest", "none", "refuse"]
"""What the lab answers to UserAuthenticate: a DigestChallenge, an empty one, or 410."""
_SERVICE = "com.apple.maid"
_TOKEN_DATA_BYTES = 64  # ours
_REALM = "lom-agent lab"
_MOST_NONCES = 10_000  # of logins in progress; ours


def name_of(udid: str, user_id: str) -> str:
    """Under which the lab stores a user."""
    return f"{udid}:{ascii_upper(user_id)}"


def is_user(name: str) -> bool:
    """Whether the lab has a user under this name, and not a Mac."""
    return ":" in name


def new_user(mac: EnrolledMac, message: Mapping[str, Any]) -> EnrolledMac:
    """The record of a user of this Mac, from the TokenUpdate. Raises Refused."""
    user_id = text_of(message, "UserID")
    keys = {key: text_of(message, key) for key in ("UserID", "UserShortName", "UserLongName")}
    name = name_of(mac.udid, user_id)
    # The certificate is that of the Mac, which is checked there; each record has a fingerprint of its own.
    return EnrolledMac(name, hashlib.sha256(name.encode()).digest(), {**mac.announcement, **keys})


class UserAuthentication:
    """Answers UserAuthenticate, and checks the AuthToken of the messages after it."""

    def __init__(self, policy: UserPolicy = "digest") -> None:
        self.policy: UserPolicy = policy
        self._nonces: dict[str, str] = {}  # by name of the user, until the DigestResponse
        self._tokens: dict[str, str] = {}

    def answer(self, name: str, message: Mapping[str, Any]) -> bytes:
        """The body of the answer. Raises Refused."""
        if "DigestResponse" in message:
            return self._second(name, text_of(message, "DigestResponse"))
        self._tokens.pop(name, None)
        if self.policy == "refuse":
            raise Refused(410, "the lab does not manage this user")
        if self.policy == "none":
            return plists.dump_xml({"DigestChallenge": ""})
        if len(self._nonces) >= _MOST_NONCES:
            del self._nonces[next(iter(self._nonces))]
        self._nonces[name] = nonce = secrets.token_hex(16)
        return plists.dump_xml({"DigestChallenge": f'Digest realm="{_REALM}", nonce="{nonce}", qop="auth"'})

    def _second(self, name: str, response: str) -> bytes:
        try:
            parts = parts_of(response)
        except DigestRefused as error:
            raise Refused(400, str(error)) from error
        nonce = self._nonces.pop(name, None)
        wanted = [parts.get(key, "") for key in ("username", "uri", "cnonce")]
        expected = digest("MD5", _REALM, nonce or "", wanted[0], PASSWORD, wanted[1], wanted[2])
        if nonce is None or parts.get("nonce") != nonce or ascii_lower(parts.get("response", "")) != expected:
            return plists.dump_xml({"AuthToken": ""})
        self._tokens[name] = token = secrets.token_urlsafe(24)
        return plists.dump_xml({"AuthToken": token})

    def check(self, name: str, message: Mapping[str, Any]) -> None:
        """Check the AuthToken of a message where the user has one. Raises Refused."""
        token = self._tokens.get(name)
        if token is not None and message.get("AuthToken") != token:
            raise Refused(403, "the AuthToken is not that of the user")

    def forget(self, name: str) -> None:
        """The user is no longer managed."""
        self._tokens.pop(name, None)
        self._nonces.pop(name, None)


class LabUsers:
    """The users of a lab, among its ``macs``."""

    def __init__(self, macs: dict[str, EnrolledMac], state: LabState) -> None:
        self.authentication = UserAuthentication()
        self._macs = macs
        self._state = state

    def check_in(
        self,
        mac: EnrolledMac,
        message: Mapping[str, Any],
        declared: Callable[[EnrolledMac, Mapping[str, Any]], bytes],
    ) -> bytes:
        """Process a check-in message of a user of this Mac; ``declared`` answers DeclarativeManagement.

        Returns the body of the answer. Raises Refused.
        """
        match message.get("MessageType"):
            case "UserAuthenticate":
                return self.authentication.answer(name_of(mac.udid, text_of(message, "UserID")), message)
            case "TokenUpdate":
                check_topic(message)
                self._token_update(mac, message)
                return b""
            case "DeclarativeManagement":
                return declared(self.of_message(mac, message), message)
            case "GetToken":
                self.of_message(mac, message)
                return token_of(message)
        raise Refused(400, f"no user channel has the MessageType {str(message.get('MessageType'))[:80]!r}")

    def of_message(self, mac: EnrolledMac, message: Mapping[str, Any]) -> EnrolledMac:
        """The user of a message. Raises Refused."""
        user = self._macs.get(name_of(mac.udid, text_of(message, "UserID")))
        if user is None:
            raise Refused(401, "this user has not sent a push token")
        self.authentication.check(user.udid, message)
        return user

    def forget(self, udid: str) -> None:
        """Remove the users of a Mac."""
        for name in [name for name in self._macs if name.startswith(f"{udid}:")]:
            self._state.check_out(name)
            del self._macs[name]
            self.authentication.forget(name)

    def _token_update(self, mac: EnrolledMac, message: Mapping[str, Any]) -> None:
        new = new_user(mac, message)
        token, magic = push_keys_of(message)
        self.authentication.check(new.udid, message)
        user = self._macs.get(new.udid)
        if user is None:
            self._state.enroll(new)
            user = self._macs[new.udid] = new
        self._state.update(replace(user, token=token, push_magic=magic, unregistered=False))
        user.token, user.push_magic, user.unregistered = token, magic, False


def token_of(message: Mapping[str, Any]) -> bytes:
    """The answer to GetToken: a token for com.apple.maid that nothing accepts. Raises Refused."""
    if message.get("TokenServiceType") != _SERVICE:
        raise Refused(400, f"the TokenServiceType {str(message.get('TokenServiceType'))[:80]!r} is unknown")
    return plists.dump_xml({"TokenData": secrets.token_bytes(_TOKEN_DATA_BYTES)})
