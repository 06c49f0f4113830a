"""Makes the Macs of a state file again, as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from agent.device.installing.apps import queued_app
from agent.fleet.population import USER_CHANNEL
from agent.net.mac.client import MDMClient
from agent.state.fleet import FleetState, KeptGroup


class RestoredMac(msgspec.Struct, frozen=True):
    """A Mac from the file, by its index in its group. It does nothing yet."""

    index: int
    in_session: bool
    """Whether a session was open."""


def restore_group(
    state: FleetState, group: KeptGroup, *, idle: bool, each: Callable[[MDMClient], object] = lambda _client: None
) -> Iterator[RestoredMac]:
    """Restore the Macs of a group of the file. Raises OperatorError.

    Returns those that have something to do. ``idle``: the others become idle, to save memory. ``each`` is called with
    every Mac of the file.
    """
    restored: dict[int, RestoredMac] = {}
    for index in state.removed(group.first):
        state.reading(partial(group.fleet.remove, index))
    for mac in state.macs(group.first):
        client = state.reading(partial(group.fleet.__getitem__, mac.index))
        state.reading(partial(client.restore, mac.device, mac.record))
        each(client)
        device = client.device
        wanted = mac.record.activity.session.wanted
        user = mac.record.activity.user_session
        acts = wanted or device.enrolling is not None or device.synchronising is not None
        acts = acts or (user is not None and user.wanted)
        acts = acts or (device.user is not None and device.user.synchronising is not None)
        acts = acts or queued_app(device) is not None
        due = device.update is not None or device.declared.full_report_at is not None  # at a time of its own
        if acts or not idle or not client.make_idle() or due:
            restored[mac.index] = RestoredMac(mac.index, wanted)
    endpoint = group.push_endpoint
    for notification, not_before in state.pushes(group.first):
        if endpoint is not None:
            endpoint.broker.restore(notification, not_before)
            index = notification.index % USER_CHANNEL
            restored.setdefault(index, RestoredMac(index, in_session=False))
    return iter(restored.values())
