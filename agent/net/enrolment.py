"""A Mac enrols: it fetches its profile, unpacks its identity, and checks in with it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from agent import plists
from agent.device.mac import Device
from agent.errors import PeerError
from agent.mdm import checkin
from agent.mdm.session import ServerRefused
from agent.net.http import HTTPConnection
from agent.net.http1 import Origin, Response, encode_request, split_url
from agent.net.surroundings import Surroundings
from agent.profiles.enrolment import Enrolment


class _Answer:
    """A caller whose answer is a Deferred."""

    def __init__(self) -> None:
        self.deferred: Deferred[Response] = Deferred()

    def answered(self, response: Response) -> None:
        """The response came."""
        self.deferred.callback(response)

    def broke(self, error: PeerError) -> None:
        """It will not come."""
        self.deferred.errback(error)


ConnectionTo = Callable[[Origin], HTTPConnection]


def exchange(connection: HTTPConnection, request: bytes) -> Deferred[Response]:
    """Send a request; the Deferred fires with its response, or fails with a PeerError."""
    answer = _Answer()
    connection.request(request, answer)
    return answer.deferred


async def enrol(device: Device, surroundings: Surroundings, url: str, connection_to: ConnectionTo) -> None:
    """Enrol with the profile at ``url``, over ``connection_to`` for what the Mac says with its identity.

    Raises PeerError; the Mac is then as it was before.
    """
    since = surroundings.now()
    try:
        enrolment = device.accept_enrolment(await _fetch_profile(surroundings, url))
        await _check_in(device, surroundings, enrolment, connection_to)
    except PeerError as error:
        device.forget_enrolment()
        surroundings.record("enroll", device.mac.index, since, error)
        raise
    surroundings.record("enroll", device.mac.index, since, facts={"udid": device.mac.udid})


async def _fetch_profile(surroundings: Surroundings, url: str) -> bytes:
    origin, target = split_url(url)
    connection = surroundings.connection(origin, None)
    try:
        request = encode_request("GET", origin, target, {"User-Agent": checkin.USER_AGENT, "Accept": "*/*"})
        response = await exchange(connection, request)
    finally:
        connection.close()
    if response.status != 200:
        raise ServerRefused(
            f"the server answered the request for the enrolment profile with {response.status}", response.status
        )
    return response.body


async def _check_in(
    device: Device, surroundings: Surroundings, enrolment: Enrolment, connection_to: ConnectionTo
) -> None:
    origin, target = split_url(enrolment.check_in_url)
    connection = connection_to(origin)
    mac = device.mac
    for message in (
        checkin.authenticate(device.announcement, enrolment.topic),
        checkin.token_update(mac.udid, enrolment.topic, mac.push_token, mac.push_magic),
    ):
        since = surroundings.now()
        facts = {"message": message["MessageType"], "udid": mac.udid}
        try:
            headers = {"User-Agent": checkin.USER_AGENT, "Content-Type": checkin.CONTENT_TYPE}
            body = plists.dump_xml(message)
            response = await exchange(connection, encode_request("PUT", origin, target, headers, body))
            if response.status != 200:
                raise ServerRefused(
                    f"the server answered {message['MessageType']} with {response.status} instead of 200",
                    response.status,
                )
        except PeerError as error:
            surroundings.record("checkin", mac.index, since, error, facts)
            raise
        surroundings.record("checkin", mac.index, since, None, facts)
