"""The accounts of a Mac: an administrator, whom Setup Assistant made, and the user who is logged in, if any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agent import plists
from agent.device.derived import made_by_macos
from agent.device.mac import Device
from agent.device.system import User
from agent.fleet.derivation import uuid_text

if TYPE_CHECKING:
    from agent.device.users.channel import Account

FIRST_UID = 501  # of the first account on a Mac
_ADMINISTRATOR = ("admin", "Administrator")


def users_of(device: Device) -> tuple[User, ...]:
    """The accounts. The user of the user channel is logged in, and nobody else is."""
    users = device.system.users
    if users is None:
        users = (_made(device, *_ADMINISTRATOR, FIRST_UID, secure_token=True),)
    return users if device.user is None else (*users, _logged_in(device.user.account, users))


def set_users(device: Device, users: Iterable[User]) -> None:
    """Replace the accounts, except that of the user who is logged in."""
    device.system = replace(device.system, users=tuple(user for user in users if not user.logged_in))


def _logged_in(account: Account, others: tuple[User, ...]) -> User:
    return User(
        name=account.short_name,
        full_name=account.long_name,
        uid=FIRST_UID + len(others),
        guid=account.user_id,
        logged_in=True,
        mobile=account.network,
        secure_token=True,
    )


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
