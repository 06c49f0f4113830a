"""The accounts of a Mac. Its factory state has one administrator, whom Setup Assistant made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.device.derived import made_by_macos
from agent.device.mac import Device
from agent.device.system import User
from agent.fleet.derivation import uuid_text

FIRST_UID = 501  # of the first account on a Mac
NETWORK_UID = 1_000_001  # of the account of a network user; ours
_ADMINISTRATOR = ("admin", "Administrator")


def users_of(device: Device) -> tuple[User, ...]:
    """The accounts, also the mobile one of a network user who is logged in."""
    users = accounts_of(device)
    if device.user is None or device.settings.awaiting_configuration:
        return users
    account = device.user.account
    if account.network:
        mobile = _made(device, account.short_name, account.long_name, NETWORK_UID, administrator=False)
        return (*users, replace(mobile, guid=account.user_id, logged_in=True, mobile=True))
    first = primary(users)
    return tuple([replace(user, logged_in=True) if user is first else user for user in users])


def accounts_of(device: Device) -> tuple[User, ...]:
    """The local accounts, as stored: who is logged in is not part of them."""
    users = device.system.users
    return (_made(device, *_ADMINISTRATOR, FIRST_UID, secure_token=True),) if users is None else users


def primary(users: Iterable[User]) -> User | None:
    """The account of the local user who may be logged in: the first one that the login window shows."""
    return next((user for user in users if not user.hidden), None)


def set_users(device: Device, users: Iterable[User]) -> None:
    """Replace the local accounts."""
    local = tuple([replace(user, logged_in=False) for user in users if not user.mobile])
    device.system = replace(device.system, users=local)


def finish_setup_assistant(device: Device) -> None:
    """Make the accounts as AccountConfiguration says. Source: apple-schema commands/account.configuration.yaml."""
    state = device.system
    if not state.account_configuration:
        return
    asked: dict[str, Any] = plists.load_dict(state.account_configuration)
    users: list[User] = []
    if not asked.get("SkipPrimarySetupAccountCreation"):
        hidden = asked.get("DontAutoPopulatePrimaryAccountInfo")
        name = _ADMINISTRATOR[0] if hidden else asked.get("PrimaryAccountUserName", _ADMINISTRATOR[0])
        full_name = _ADMINISTRATOR[1] if hidden else asked.get("PrimaryAccountFullName", name)
        ordinary = bool(asked.get("SetPrimarySetupAccountAsRegularUser"))
        users.append(_made(device, name, full_name, FIRST_UID, administrator=not ordinary, secure_token=True))
    for account in asked.get("AutoSetupAdminAccounts", [])[:1]:
        name = account["shortName"]
        uid = FIRST_UID + len(users)
        made = _made(device, name, account.get("fullName", name), uid, hidden=bool(account.get("hidden")))
        users.append(replace(made, automatic=True))
    device.system = replace(state, users=tuple(users), account_configuration=b"")


def _made(
    device: Device,
    name: str,
    full_name: str,
    uid: int,
    *,
    administrator: bool = True,
    secure_token: bool = False,
    hidden: bool = False,
) -> User:
    """A new account."""
    return User(
        name=name,
        full_name=full_name,
        uid=uid,
        guid=uuid_text(made_by_macos(device, f"account {uid}")[:16], 4),
        administrator=administrator,
        secure_token=secure_token,
        hidden=hidden,
    )
