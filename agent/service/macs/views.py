"""How the service shows a Mac: the JSON types of `agent.service.types` from its state."""

from __future__ import annotations

from typing import cast

from agent.device.mac import Device
from agent.lom.power import Power
from agent.measure.exchanges import HTTPExchange, as_shown
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.census import state_of
from agent.profiles.store import InstalledProfile as StoredProfile
from agent.service.macs.groups import MacHandle
from agent.service.types import (
    Exchange,
    InstalledProfile,
    Mac,
    MacDetail,
    MacState,
    PendingResult,
    PowerState,
    Role,
    User,
)

_POWER: dict[Power, PowerState] = {
    Power.OFF: "off",
    Power.BOOTING: "booting",
    Power.ON: "on",
    Power.SHUTTING_DOWN: "shutting_down",
}


def power_state(device: Device) -> PowerState:
    """The power of a Mac."""
    return "no_mains" if device.power.cut else _POWER[device.power.state]


def mac_view(handle: MacHandle) -> Mac:
    """One Mac as a list shows it. A Mac that did nothing yet is not made for it."""
    client, mac = handle.client, handle.mac
    untouched = client.is_untouched
    if not untouched:
        mac = client.device.mac  # an update may have raised its macOS release
    return Mac(
        number=handle.number,
        udid=mac.udid,
        serial_number=mac.serial_number,
        name=mac.device_name if untouched else client.device.device_name,
        model=mac.model,
        os_version=mac.os_version,
        segment=handle.segment,
        roles=cast("list[Role]", list(mac.roles)),
        state=_state(client),
        power="on" if untouched else power_state(client.device),
        enrolled=client.enrolled,
        connected=client.connected,
        online=client.online,
        lom=not untouched and client.lom is not None,
        boots=client.boots,
    )


def mac_detail(
    handle: MacHandle, pending: PendingResult | None, last_error: str, exchanges: list[Exchange]
) -> MacDetail:
    """One Mac with what is installed on it."""
    seen, device = mac_view(handle), handle.client.device
    mac = device.mac
    return MacDetail(
        **{name: getattr(seen, name) for name in Mac.__struct_fields__},
        dns_name=mac.dns_name,
        lom_addresses=list(device.lom_addresses),
        build_version=mac.build_version,
        topic="" if device.enrollment is None else device.enrollment.topic,
        profiles=[_profile(each) for each in device.profiles],
        supervised=device.supervised,
        user=_user(device),
        pending=pending,
        last_error=last_error,
        exchanges=exchanges,
    )


def exchange_view(exchange: HTTPExchange) -> Exchange:
    """An exchange with its bodies decoded."""
    shown = as_shown(exchange)
    return Exchange(**{name: shown[name] for name in Exchange.__struct_fields__})


def _state(client: MDMClient) -> MacState:
    return "offline" if not client.online else cast("MacState", state_of(client))


def _user(device: Device) -> User | None:
    user = device.user
    if user is None:
        return None
    account = user.account
    return User(
        user_id=account.user_id,
        short_name=account.short_name,
        long_name=account.long_name,
        network=account.network,
        managed=user.managed,
    )


def _profile(profile: StoredProfile) -> InstalledProfile:
    listed = profile.listed
    return InstalledProfile(
        identifier=profile.identifier,
        uuid=str(listed.get("PayloadUUID", "")),
        name=str(listed.get("PayloadDisplayName", "")),
        payload_types=sorted(profile.payload_types),
    )
