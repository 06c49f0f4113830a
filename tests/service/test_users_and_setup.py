"""What a service has for user channels and for automated enrollment."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from command import lom_agent_here
from msgspec import structs
from services import FAST, running_service

from agent.errors import OperatorError
from agent.mdm.refusals import ServerRefused
from agent.pki.issuing.authority import Authority
from agent.pki.issuing.device_ca import device_ca_pem
from agent.service.types import AddMacs, Enroll

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_a_mac_enrolls_as_in_setup_assistant_and_its_user_logs_in(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(macs=structs.replace(FAST, users=1.0), automated=True) as running:
            service = running.service
            (mac,) = service.add(AddMacs(os="27"))

            def managed() -> bool | None:
                user = service.detail(mac).user
                assert user is not None
                assert not user.network
                return user.managed

            assert managed() is None
            await service.actions.enroll(mac, Enroll())
            assert managed() is None  # nobody logs in before DeviceConfigured
            await running.push(mac)
            delivered = await running.event("delivered", mac, request_type="DeviceConfigured")
            assert delivered.status == "Acknowledged"
            await running.until(lambda: managed() is True, "the user logs in")
            first = service.exchanges(mac, "enroll", None, -1, 10)[0]
            assert (first.method, first.url.rpartition("/")[2]) == ("POST", "ade")
            with pytest.raises(OperatorError, match="Expected the URL of an automated enrollment"):
                await service.actions.enroll(mac, Enroll(profile=b"profile"))

    run_in_reactor(scenario())


def test_the_device_ca_signs_machine_info(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(device_ca=device_ca_pem(Authority.create("another CA"))) as running:
            (mac,) = running.service.add(AddMacs(os="27"))
            with pytest.raises(ServerRefused, match="40"):  # the lab does not trust it
                await running.service.actions.enroll(mac, Enroll(automated=True))
            await running.service.actions.enroll(mac, Enroll(automated=False))

    run_in_reactor(scenario())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--enrollment", "ade"), "needs --device-ca or --lab"),
        (("--enrollment", "ade", "--lab", "--enroll", "profile.mobileconfig"), "needs a URL"),
        (("--users", "2"), "--users"),
        (("--lom-network", "interface:lo", "--workers", "2"), "--workers above 1"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], says: str) -> None:
    done = lom_agent_here("serve", *arguments)
    assert done.returncode == 2
    assert says in done.stderr.decode()
