"""Commands whose effect comes after their answer, over real sockets: an app is downloaded, an update is installed."""

from __future__ import annotations

import hashlib
import plistlib
from collections.abc import Mapping
from functools import partial

from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs
from msgspec.structs import replace
from servers import HOST, Script, Talk, answer, serving
from stack import Stack, stack

from agent.device.system import FirmwarePassword
from agent.fleet.durations import Constant
from agent.lab.mdm.users import name_of
from agent.measure.exchanges import ExchangeLog
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.pki.issuing.authority import Authority

APP = "com.example.tool"
PACKAGE = b"a package" * 100_000
BRIEF = FleetBehaviour(boot=Constant(0.05), shutdown=Constant(0.01), update=Constant(0.1))


def warned(running: Stack, times: int) -> bool:
    return len(running.warnings) == times


def files(found: Mapping[str, bytes]) -> Script:
    """Answer each request with the file of its target, or 404; the first target redirects."""

    def script(talk: Talk) -> None:
        while True:
            target = talk.read_request().target
            if target == "/moved":
                talk.send(answer(302, b"", "Location: /manifest"))
            else:
                talk.send(answer(200, found[target]) if target in found else answer(404))

    return script


def test_an_app_is_downloaded_after_the_answer_and_its_hash_checked(run_in_reactor: RunInReactor) -> None:
    found: dict[str, bytes] = {}

    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(log=log) as running:
            client, ours = running.fleet[0], running.server.authorities
            with serving(files(found), identity=ours.server_identity([HOST])) as server:
                base, digest = server.url, hashlib.sha256(PACKAGE).hexdigest()
                asset = {"kind": "software-package", "url": f"{server.url}/tool.pkg", "sha256": digest}
                metadata = {"kind": "software", "bundle-identifier": APP, "bundle-version": "2", "title": "Tool"}
                found["/manifest"] = plistlib.dumps({"items": [{"assets": [asset], "metadata": metadata}]})
                found["/tool.pkg"] = PACKAGE
                stranger = Authority.create("A stranger").certificate.public_bytes(Encoding.DER)
                ask = {"ManifestURL": f"{server.url}/moved", "InstallAsManaged": True}
                pins = [ours.anchor.public_bytes(Encoding.DER)]
                faults = ({"ManifestURL": f"{server.url}/none"}, {"ManifestURLPinningCerts": [stranger]})
                for count, wrong in enumerate(faults, 1):
                    sent = await running.command(client, "InstallEnterpriseApplication", **{**ask, **wrong})
                    assert sent["Status"] == "Acknowledged"  # the server does not learn of a failure
                    await running.until(partial(warned, running, count), "the failure of the installation")
                    assert client.device.system.apps == ()
                sent = await running.command(
                    client, "InstallEnterpriseApplication", **ask, ManifestURLPinningCerts=pins
                )
                assert sent["Status"] == "Acknowledged"
                await running.until(lambda: client.device.system.managed_app(APP) is not None, "the app")
                listed = await running.command(client, "ManagedApplicationList")
                assert listed["ManagedApplicationList"][APP]["Status"] == "Managed"
                apps = await running.command(client, "InstalledApplicationList", Identifiers=[APP])
                (item,) = apps["InstalledApplicationList"]
                assert (item["Name"], item["Version"]) == ("Tool", "2")
            downloads = [each for each in log if each.kind == "download"]
            assert [(each.url.removeprefix(base), each.status) for each in downloads] == [
                ("/none", 404),
                ("/moved", None),  # another certificate is pinned
                ("/moved", 302),
                ("/manifest", 200),
                ("/tool.pkg", 200),
            ]
            assert [request.certificate for request in server.requests if request.target == "/tool.pkg"] == [None]

    run_in_reactor(scenario())


def test_a_download_that_a_power_cut_ends_starts_again_after_the_boot(run_in_reactor: RunInReactor) -> None:
    asked: list[str] = []

    def silent(talk: Talk) -> None:
        asked.append(talk.read_request().target)
        talk.wait_for_end()

    async def scenario() -> None:
        async with stack(behaviour=BRIEF) as running:
            client, ours = running.fleet[0], running.server.authorities
            found = {"/tool.pkg": PACKAGE}
            with serving(silent, files(found), identity=ours.server_identity([HOST])) as server:
                asset = {"kind": "software-package", "url": f"{server.url}/tool.pkg"}
                metadata = {"kind": "software", "bundle-identifier": APP, "title": "Tool"}
                manifest = {"items": [{"assets": [asset], "metadata": metadata}]}
                await running.command(client, "InstallEnterpriseApplication", Manifest=manifest, InstallAsManaged=True)
                await running.until(lambda: asked == ["/tool.pkg"], "the download")
                client.crash()
                await running.until(lambda: client.device.system.managed_app(APP) is not None, "the app")
                assert client.boots == 1
                assert running.warnings == []

    run_in_reactor(scenario())


def test_an_update_by_command_restarts_the_mac_and_raises_its_release(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=BRIEF) as running:
            client = running.fleet[0]
            client.device.mac = client.device.mac.with_release("26.2", "25C56")
            firmware = FirmwarePassword(pending="set at the next boot")
            client.device.system = replace(client.device.system, firmware=firmware)
            (offer,) = [
                each
                for each in (await running.command(client, "AvailableOSUpdates"))["AvailableOSUpdates"]
                if not each["IsMajorOSUpdate"]
            ]
            update = {"ProductKey": offer["ProductKey"], "InstallAction": "InstallForceRestart"}
            result = await running.command(client, "ScheduleOSUpdate", Updates=[update])
            assert [each["Status"] for each in result["UpdateResults"]] == ["Downloading"]
            await running.until(lambda: client.boots == 1, "the boot that installs the update")
            assert client.device.system.firmware == FirmwarePassword(password="set at the next boot")
            asked = await running.command(client, "DeviceInformation", Queries=["OSVersion", "BuildVersion"])
            release = {"OSVersion": offer["Version"], "BuildVersion": offer["Build"]}
            assert asked["QueryResponses"] == release
            assert client.device.announcement.os_version == offer["Version"]

    run_in_reactor(scenario())


def test_an_app_is_installed_by_the_channel_of_the_user_who_is_logged_in(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=structs.replace(BRIEF, users=1.0)) as running:
            client, mac = running.fleet[0], running.fleet[0].device.mac
            user = name_of(mac.udid, mac.user_id)
            await running.until(lambda: user in running.lab.macs and running.lab.macs[user].enrolled, "the login")
            listed = (await running.command(client, "UserList"))["Users"]
            assert [(each["UserGUID"], each["IsLoggedIn"]) for each in listed][1:] == [(mac.user_id, True)]
            asked = {"RequestType": "InstallApplication", "Identifier": APP, "InstallAsManaged": True}
            answers: list[Mapping[str, object]] = []
            running.lab.enqueue(user, asked, answers.append)
            client.wake()
            await running.until(lambda: client.device.system.managed_app(APP) is not None, "the app")
            assert [each["Status"] for each in answers] == ["Acknowledged"]

    run_in_reactor(scenario())
