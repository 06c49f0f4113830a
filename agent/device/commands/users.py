"""The local accounts of a Mac, and what AccountConfiguration asks Setup Assistant to make.

Source: apple-schema commands/user.*.yaml, account.configuration.yaml, set.auto.admin.password.yaml.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.device.commands.reading import (
    FORMAT_ERROR,
    MAX_TEXT,
    CommandRefused,
    flag,
    is_list_of,
    mdm_error,
    optional,
    packed,
    refusal,
    required,
    text,
)
from agent.device.mac import Device
from agent.device.system import User
from agent.device.users.accounts import finish_setup_assistant, set_users, users_of
from agent.mdm.commands import Command
from agent.mdm.results import (
    INVALID_REQUEST_TYPE,
    MALFORMED_REQUEST,
    NO_SUCH_USER,
    USER_LOGGED_IN,
    USER_NOT_DELETED,
    Result,
    acknowledged,
)
from agent.mdm.values import WrongType, converted

_FLAGS = (
    "SkipPrimarySetupAccountCreation",
    "SetPrimarySetupAccountAsRegularUser",
    "DontAutoPopulatePrimaryAccountInfo",
    "LockPrimaryAccountInfo",
)
_NEED_ADMINISTRATOR = _FLAGS[:2]
_TEXTS = ("PrimaryAccountFullName", "PrimaryAccountUserName", "ManagedLocalUserShortName")
_HASH = "SALTED-SHA512-PBKDF2"


def user_list(device: Device, _command: Command) -> Result:
    """The local accounts."""
    return acknowledged({"Users": [_listed(user) for user in users_of(device)]})


def _listed(user: User) -> dict[str, Any]:
    return {
        "UserName": user.name,
        "FullName": user.full_name,
        "UID": user.uid,
        "UserGUID": user.guid,
        "IsLoggedIn": user.logged_in,
        "MobileAccount": user.mobile,
        "HasSecureToken": user.secure_token,
    }


def delete_user(device: Device, command: Command) -> Result:
    """Delete an account."""
    user = _user(device, command)
    if user.logged_in:
        return mdm_error(USER_LOGGED_IN, f"the user {user.name} is logged in")
    others = [other for other in users_of(device) if other != user]
    if user.administrator and not any(other.administrator for other in others):
        return mdm_error(USER_NOT_DELETED, f"the user {user.name} is the last administrator")
    set_users(device, others)
    return acknowledged()


def unlock_user_account(device: Device, command: Command) -> Result:
    """Unlock an account that failed logins have locked. There are none: no login fails (docs/modelled.md)."""
    _user(device, command)
    return acknowledged()


def _user(device: Device, command: Command) -> User:
    name = text(device, command, "UserName")
    for user in users_of(device):
        if user.name == name:
            return user
    raise refusal(NO_SUCH_USER, f"there is no user {name[:80]}")


def account_configuration(device: Device, command: Command) -> Result:
    """Keep what Setup Assistant is to do; DeviceConfigured has it done."""
    if not device.settings.awaiting_configuration:
        return mdm_error(INVALID_REQUEST_TYPE, "AccountConfiguration: the Mac does not await its configuration")
    asked: dict[str, Any] = {key: flag(device, command, key) for key in _FLAGS}
    for key in _TEXTS:
        name = optional(device, command, key, str)
        if name is not None:
            asked[key] = _short(name)
    accounts = command.body.get("AutoSetupAdminAccounts", [])
    if not is_list_of(accounts, dict):
        return FORMAT_ERROR
    if not accounts and any(asked.get(key) for key in _NEED_ADMINISTRATOR):
        return FORMAT_ERROR
    asked["AutoSetupAdminAccounts"] = [_administrator(device, account) for account in accounts[:1]]
    device.system = replace(device.system, account_configuration=packed(asked))
    return acknowledged()


def _administrator(device: Device, account: dict[str, Any]) -> dict[str, Any]:
    """The keys of an account that the Mac keeps. The password hash is checked and dropped: no password is asked for."""
    name, full_name = account.get("shortName"), account.get("fullName", account.get("shortName"))
    if not isinstance(name, str) or not isinstance(full_name, str):
        raise CommandRefused(FORMAT_ERROR)
    if "passwordHash" in account:
        _check_password_hash(account["passwordHash"])
    try:
        hidden = converted(account.get("hidden", False), bool, "hidden of AutoSetupAdminAccounts", device.warn)
    except WrongType as error:
        raise CommandRefused(FORMAT_ERROR) from error
    return {"shortName": _short(name), "fullName": _short(full_name), "hidden": hidden}


def _short(name: str) -> str:
    if not 0 < len(name) <= MAX_TEXT:
        raise CommandRefused(FORMAT_ERROR)
    return name


def set_auto_admin_password(device: Device, command: Command) -> Result:
    """Change the password of the administrator that AccountConfiguration had made."""
    guid = text(device, command, "GUID")
    _check_password_hash(required(device, command, "passwordHash", bytes))
    if not any(user.automatic and user.guid == guid for user in users_of(device)):
        return mdm_error(NO_SUCH_USER, f"the server did not have an administrator with the GUID {guid[:80]} made")
    return acknowledged()


def _check_password_hash(value: object) -> None:
    """Source: apple-schema other/passwordhash.yaml."""
    if not isinstance(value, bytes):
        raise CommandRefused(FORMAT_ERROR)
    try:
        derived = plists.load_dict(value, what="password hash").get(_HASH)
    except plists.PlistError as error:
        raise refusal(MALFORMED_REQUEST, str(error)) from error
    kinds = {"entropy": bytes, "salt": bytes, "iterations": int}
    if not isinstance(derived, dict) or not all(isinstance(derived.get(key), kind) for key, kind in kinds.items()):
        raise refusal(MALFORMED_REQUEST, f"the password hash: expected {_HASH} with entropy, salt and iterations")


def device_configured(device: Device, _command: Command) -> Result:
    """End the wait for configuration: Setup Assistant makes the accounts and ends."""
    if device.settings.awaiting_configuration:
        finish_setup_assistant(device)
    device.settings.awaiting_configuration = False
    return acknowledged()
