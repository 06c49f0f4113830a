"""The user channel of a Mac: the logged-in user that its server manages beside the device. No I/O.

A ``UserDevice`` is the Mac as its user's mdmclient agent sees it: it has profiles, declarations and a session of its
own, and everything else (power, settings, the enrollment) is the Mac's. So commands, sessions and background tasks take
it in place of a Device. A Mac has one logged-in user at most; that is our choice.
Source: Apple, "Managing MDM devices and users in macOS"; apple-schema checkin/tokenupdate.yaml, userauthenticate.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent import plists
from agent.device.ddm.declared import Declared
from agent.device.facts.supported import USER_CHANNEL
from agent.device.mac import Device
from agent.device.steps import CheckIn, Steps
from agent.errors import PeerError
from agent.fleet.population import Mac
from agent.mdm import checkin
from agent.mdm.digest import digest_response
from agent.mdm.facts import message, version
from agent.mdm.refusals import ServerRefused
from agent.mdm.session import Session
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY, PER_USER_CAPABILITY, TOKEN_CAPABILITY, Enrollment
from agent.profiles.store import ProfileStore

PASSWORD = "lom-agent"  # noqa: S105 - of every simulated network user, so that a server can check the digest
_TOKEN_SERVICE = "com.apple.maid"  # noqa: S105 - a Managed Apple Account
_TOKEN_SINCE = (14,)
_OWN = frozenset(
    {
        "_deferred_requests",
        "_follow_ups",
        "_warnings",
        "account",
        "auth_token",
        "declared",
        "device",
        "managed",
        "profiles",
        "session",
        "synchronising",
    }
)


class Account(msgspec.Struct, frozen=True):
    """A user of a Mac."""

    user_id: str
    """The GUID; UserID."""
    short_name: str
    long_name: str
    network: bool
    """Whether it is an account of a directory service, which the server authenticates at each login."""
    push_token: bytes
    push_magic: str

    @classmethod
    def of(cls, mac: Mac, *, network: bool) -> Account:
        """The logged-in user of a Mac."""
        name = f"user-{mac.serial_number.lower()}"
        return cls(mac.user_id, name, f"User of {mac.serial_number}", network, mac.user_push_token, mac.user_push_magic)


class UserDevice(Device):
    """A Mac on its user channel."""

    __slots__ = ("account", "auth_token", "device", "managed")

    def __init__(self, device: Device, account: Account, session: Session) -> None:  # the parts of a Mac are its own
        object.__setattr__(self, "device", device)
        self.account = account
        # Whether the server manages the user: None before it has answered; False after 410 to UserAuthenticate, until
        # the next login.
        self.managed: bool | None = None
        self.auth_token = ""  # of the present login; empty if the server asks for none
        self.session = session
        self._clear()

    def _clear(self) -> None:
        self.profiles = ProfileStore()
        self.declared = Declared()
        self.synchronising = None
        self._follow_ups = []
        self._warnings = ()
        self._deferred_requests = ()

    # What is not its own is that of the Mac.

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "device"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.device, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in sorted(_OWN)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def channel(self) -> str:
        """The name of the channel."""
        return USER_CHANNEL

    @property
    def channels(self) -> tuple[Device, ...]:
        """The Mac on each channel that it has."""
        found: tuple[Device, ...] = self.device.channels
        return found

    @property
    def channel_facts(self) -> Mapping[str, str]:
        """What a record says about the channel."""
        return {"channel": USER_CHANNEL}

    def check_in_facts(self, message_type: str) -> Mapping[str, str]:
        """What the record of a check-in says about its channel."""
        return self.channel_facts if _is_on_user_channel(message_type) else {}

    @property
    def managed_ids(self) -> list[str]:
        """The GUID of the user if the server manages him, as in ActiveManagedUsers."""
        return [self.account.user_id] if self.managed else []

    @property
    def push_token(self) -> bytes:
        """Its own, other than that of the device channel."""
        return self.account.push_token

    @property
    def push_magic(self) -> str:
        """Its own, other than that of the device channel."""
        return self.account.push_magic

    def check_in_keys(self, message_type: str) -> Mapping[str, Any]:
        """The keys of the user channel in a check-in message, by Apple's schema; none in one of the device channel."""
        if message_type == "UserAuthenticate" or not _is_on_user_channel(message_type):
            return {}
        keys = self._keys()
        return {name: value for name, value in keys.items() if name == "AuthToken" or name in _known_keys(message_type)}

    def addressed(self, report: bytes) -> bytes:
        """A report with the keys of the user channel."""
        return plists.dump_xml({**plists.load_dict(report), **self._keys()})

    def _keys(self) -> dict[str, Any]:
        account = self.account
        keys: dict[str, Any] = {
            "NotOnConsole": False,
            "UserID": account.user_id,
            "UserLongName": account.long_name,
            "UserShortName": account.short_name,
        }
        return {**keys, "AuthToken": self.auth_token} if self.auth_token else keys

    def forget_enrollment(self) -> None:
        """Forget everything that the server installed for the user; the enrollment of the Mac stays."""
        self._clear()
        self.managed = None
        self.auth_token = ""
        self.session.forget()


@lru_cache(64)
def _known_keys(message_type: str) -> frozenset[str]:
    return frozenset(message("check-in", message_type).request)


def _is_on_user_channel(message_type: str) -> bool:
    return message("check-in", message_type).fact.is_on(USER_CHANNEL)


def may_log_in(device: Device) -> bool:
    """Whether the Mac's user channel can be opened: it is enrolled, out of Setup Assistant, and the server has it."""
    enrollment = device.enrollment
    return (
        device.user is not None
        and device.running
        and enrollment is not None
        and PER_USER_CAPABILITY in enrollment.capabilities
        and not device.settings.awaiting_configuration
    )


def log_in_steps(user: UserDevice) -> Steps[None]:
    """The user logs in: authenticate a network user, and send the user's push token. Raises PeerError.

    A network user's account gets its secure token with the Mac's bootstrap token, which the Mac asks for first (our
    choice). It asks for the token of a Managed Apple Account where the server has one (our choice).
    """
    enrollment = user.enrollment
    if enrollment is None:
        return
    user.managed, user.auth_token = None, ""
    mac, account = user.mac, user.account
    if account.network:
        managed = yield from _authenticate(user, enrollment)
        if not managed:
            user.managed, user.declared = False, Declared()
            return
        if user.supervised and BOOTSTRAP_CAPABILITY in enrollment.capabilities:
            yield CheckIn(checkin.get_bootstrap_token(mac.udid), enrollment)  # without it the user logs in as well
    update = checkin.token_update(mac.udid, enrollment.topic, user.push_token, user.push_magic, awaiting=None)
    updated: bytes | PeerError = yield CheckIn(update, enrollment)
    if isinstance(updated, PeerError):
        raise updated
    user.managed = True
    if TOKEN_CAPABILITY in enrollment.capabilities and version(mac.os_version) >= _TOKEN_SINCE:
        yield CheckIn(checkin.get_token(mac.udid, _TOKEN_SERVICE), enrollment)


def _authenticate(user: UserDevice, enrollment: Enrollment) -> Steps[bool]:
    """UserAuthenticate, once or twice; returns whether the server manages the user."""
    udid, account = user.mac.udid, user.account
    answer: bytes | PeerError = yield CheckIn(checkin.user_authenticate(udid, account.user_id), enrollment)
    if isinstance(answer, ServerRefused) and answer.status == checkin.NOT_MANAGED:
        return False
    challenge = _text(answer, "DigestChallenge")
    if not challenge:
        return True
    path = urlsplit(enrollment.check_in_url).path or "/"
    nonce = user.mac.source.digest(b"client nonce", user.mac.index)[:16].hex()
    response = digest_response(challenge, account.short_name, PASSWORD, path, nonce)
    answer = yield CheckIn(checkin.user_authenticate(udid, account.user_id, response), enrollment)
    user.auth_token = _text(answer, "AuthToken")
    if not user.auth_token:
        user.warn(f"the server refused the password of the network user {account.short_name}: its AuthToken is empty")
    return bool(user.auth_token)


def _text(answer: bytes | PeerError, key: str) -> str:
    """A string of the answer's dictionary; empty where it is absent. Raises PeerError."""
    if isinstance(answer, PeerError):
        raise answer
    value = plists.load_dict(answer, what=key).get(key, "") if answer.strip() else ""
    return value if isinstance(value, str) else ""
