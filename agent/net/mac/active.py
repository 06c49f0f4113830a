"""The runtime state of an active Mac: how it is made, and what ends it, such as a loss of power or of the network."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.device.mac import Device
from agent.lom.endpoint import Endpoint
from agent.mdm.session import State
from agent.measure.operations import RUN_ENDED
from agent.net.http.resumption import Resumption
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power.timer import LOMPresence, PowerTimer
from agent.net.mac.push import GatewaySide, PushListener
from agent.net.mac.sessions.background import BackgroundTasks
from agent.net.mac.sessions.commands import Commands, SimulatedMac
from agent.net.mac.sessions.connection import SessionConnection
from agent.net.mac.sessions.declarative import DeclarativeManagement, UpkeptMac
from agent.net.mac.sessions.sessions import Sessions
from agent.net.mac.upkeep import Upkeep
from agent.net.mac.users import UserChannel
from agent.net.timing import Alarm

WENT_DOWN = "the Mac went down"
WENT_OFFLINE = "the Mac went offline"


class ActingMac(SimulatedMac, UpkeptMac, Endpoint, Protocol):
    """What the parts of an active Mac ask of it."""

    def wake(self) -> bool:
        """Open a session, or ask for commands again when the open one ends; returns whether one was opened."""


class ActiveMac(msgspec.Struct, frozen=True):
    """The runtime state of an active Mac: its Device and what acts for it."""

    device: Device
    pushes: PushListener
    background: BackgroundTasks
    power: PowerTimer
    lom: LOMPresence
    connection: SessionConnection
    commands: Commands
    sessions: Sessions
    upkeep: Upkeep
    user: UserChannel | None = None

    @property
    def quiet(self) -> bool:
        """Whether no session, command, push, power change or background task is pending."""
        return (
            self.device.quiet
            and self.pushes.quiet
            and self.background.quiet
            and self.commands.quiet
            and self.sessions.quiet
            and (self.user is None or self.user.quiet)
        )

    def free_memory(self) -> None:
        """Free the memory that a quiet Mac can recreate."""
        self.connection.free_memory()
        self.commands.free_memory()
        if self.user is not None:
            self.user.free_memory()
        for identity in self.device.identities:
            identity.free_objects()

    def go_down(self, *, in_order: bool) -> None:
        """Stop everything that runs. ``in_order`` is a shutdown, in which connections are closed; else they break."""
        self.sessions.stop(WENT_DOWN)
        self.upkeep.interrupted(WENT_DOWN)
        self.background.abandon(in_order=in_order)
        self.pushes.forget(WENT_DOWN)
        self.connection.power_lost(in_order=in_order)
        if self.user is not None:
            self.user.stop(WENT_DOWN, in_order=in_order)
        self.device.lose_power()
        if not self.device.session.owes_result:
            self.commands.forget(WENT_DOWN)

    def go_offline(self) -> None:
        """Close the connections to the server, and lose what is in progress on them."""
        self.sessions.stop(WENT_OFFLINE)
        self.upkeep.interrupted(WENT_OFFLINE)
        self.background.abandon(WENT_OFFLINE, in_order=True)
        self.pushes.forget(WENT_OFFLINE)
        self.pushes.offline = True
        self.connection.hang_up()
        if self.user is not None:
            self.user.stop(WENT_OFFLINE, in_order=True)
            self.user.pushes.offline = True
        self.device.lose_power()  # of the session alone: it ends, and an undelivered result is kept
        if not self.device.session.owes_result:
            self.commands.forget(WENT_OFFLINE)

    def suspend(self, reason: str) -> bool:
        """End the sessions of an enrollment that another one is about to replace; an undelivered result is kept.

        Returns whether a session was open or due.
        """
        session = self.device.session
        interrupted = session.state is not State.CLOSED or session.deadline is not None
        self.sessions.stop(reason)
        self.connection.hang_up()
        if self.user is not None:
            self.user.stop(reason, in_order=True)
        self.device.lose_power()  # as above
        if not session.owes_result:
            self.commands.forget(reason)
        return interrupted

    def close(self) -> None:
        """Close every connection and cancel every timer, at the end of the run."""
        self.sessions.stop(RUN_ENDED)
        self.upkeep.stop()
        self.power.stop()
        self.background.close()
        if self.user is not None:
            self.user.close(RUN_ENDED)
        self.connection.hang_up()


def active_mac(
    device: Device,
    environment: Environment,
    gateway: GatewaySide,
    resumption: Resumption | None,
    power: PowerTimer,
    mac: ActingMac,
) -> ActiveMac:
    """The runtime state of a Mac that becomes active.

    Alarms call ``mac``, not the parts that set them: a cycle would keep these until a garbage collection.
    """
    pushes = PushListener(device, environment, gateway)
    background = BackgroundTasks(device, environment, mac)
    lom = LOMPresence(device, environment.network, mac)
    connection = SessionConnection(device, environment, resumption)
    commands = Commands(device, environment, background, mac)
    declarative = DeclarativeManagement(device, environment, background, lom, mac)
    channels: tuple[DeclarativeManagement, ...] = (declarative,)
    if device.user is not None:
        user_background = BackgroundTasks(device.user, environment, mac)
        channels += (DeclarativeManagement(device.user, environment, user_background, lom, mac),)
    upkeep = Upkeep(device, environment, background, power, mac, channels)
    sessions = Sessions(
        device,
        environment,
        connection,
        commands,
        pushes=pushes,
        background=background,
        power=power,
        lom=lom,
        declarative=declarative,
        upkeep=upkeep,
        mac=mac,
        poll=Alarm(environment.clock, mac.wake),
    )
    user = None
    if device.user is not None:
        user = UserChannel(
            device.user,
            environment,
            gateway,
            background=user_background,
            declarative=channels[1],
            mac=mac,
            power=power,
            lom=lom,
            upkeep=upkeep,
        )
    return ActiveMac(device, pushes, background, power, lom, connection, commands, sessions, upkeep, user)
