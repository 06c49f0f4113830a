"""What the lab refuses or ignores: bodies of unauthorised clients, forms, messages in the name of other Macs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import twisted.web.http
from conftest import RunInReactor
from lab_messages import (
    AUTHORITIES,
    OTHER,
    UDID,
    Client,
    authenticate,
    enroll,
    in_thread,
    listening,
    put,
    report,
    token_update,
)

from agent import plists
from agent.lab.mdm.core import Lab, Refused
from agent.lab.web.server import LabServer
from agent.mdm import checkin, results

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
BODY = b"&" * 200_000


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of body bytes that Twisted stores; negative for bytes that it parses as a form."""
    found: list[int] = []
    keep, parse = twisted.web.http.Request.handleContentChunk, twisted.web.http.parse_qs

    def counting(request: Any, data: bytes) -> None:
        found.append(len(data))
        keep(request, data)

    def parsing(query: bytes, *arguments: Any) -> Any:
        if len(query) > 1000:
            found.append(-len(query))
        return parse(query, *arguments)

    monkeypatch.setattr(twisted.web.http.Request, "handleContentChunk", counting)
    monkeypatch.setattr(twisted.web.http, "parse_qs", parsing)
    return iter([found])


def asked(
    run_in_reactor: RunInReactor,
    folder: Path,
    asks: Callable[[LabServer, Client], Any],
    *,
    certified: bool = False,
    scep: bool = False,
) -> Any:
    """The response of a running lab to a client."""

    async def scenario() -> Any:
        async with listening(scep=scep) as server:
            identity = server.authorities.mdm_identity() if certified else None
            client = Client(server, folder, identity)
            try:
                return await in_thread(lambda: asks(server, client))
            finally:
                client.close()

    return run_in_reactor(scenario())


PLACES = [
    ("POST", "/api/v1/macs/X/commands"), ("PUT", "/checkin"), ("PUT", "/mdm"), ("POST", "/enroll"), ("GET", "/enroll"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PLACES)
@pytest.mark.parametrize("content_type", [FORM, MULTIPART, checkin.CONTENT_TYPE, results.CONTENT_TYPE])
def test_body_of_an_unauthenticated_client_is_discarded(
    run_in_reactor: RunInReactor,
    tmp_path: Path,
    kept: Iterator[list[int]],
    method: str,
    path: str,
    content_type: str,
) -> None:
    def ask(_server: LabServer, client: Client) -> tuple[int, bytes]:
        return client.ask(method, path, BODY, ("Content-Type", content_type), ("Authorization", "Bearer wrong"))

    status, _body = asked(run_in_reactor, tmp_path, ask)
    assert status in ({200} if method == "GET" else {401, 405, 415})
    assert next(kept) == []


@pytest.mark.parametrize("content_type", [FORM, MULTIPART])
def test_body_is_never_parsed_as_a_form(
    run_in_reactor: RunInReactor, tmp_path: Path, kept: Iterator[list[int]], content_type: str
) -> None:
    def ask(server: LabServer, client: Client) -> tuple[int, bytes]:
        enroll(server.lab)
        token = ("Authorization", f"Bearer {server.token}")
        return client.ask("POST", f"/api/v1/macs/{UDID}/commands", BODY, ("Content-Type", content_type), token)

    status, body = asked(run_in_reactor, tmp_path, ask)
    assert status == 400
    assert "list" in json.loads(body)["error"]  # it was read as a property list
    sizes = next(kept)
    assert sum(sizes) == len(BODY)
    assert min(sizes) > 0


@pytest.mark.parametrize("values", [["{}", "{}"], ["{}", "wrong"], ["wrong", "{}"], [], ["wrong"], [""]])
def test_repeated_authorization_header_is_refused(
    run_in_reactor: RunInReactor, tmp_path: Path, values: list[str]
) -> None:
    def ask(server: LabServer, client: Client) -> list[int]:
        headers = [("Authorization", "Bearer " + value.format(server.token)) for value in values]
        good = ("Authorization", f"bearer {server.token}")
        return [client.ask("GET", "/api/v1/macs", b"", *headers)[0], client.ask("GET", "/api/v1/macs", b"", good)[0]]

    assert asked(run_in_reactor, tmp_path, ask) == [401, 200]


@pytest.mark.parametrize("name", ["Mdm-Signature", "Content-Type"])
def test_repeated_mdm_headers_are_refused(run_in_reactor: RunInReactor, tmp_path: Path, name: str) -> None:
    def ask(server: LabServer, client: Client) -> list[tuple[int, bytes]]:
        message = put(AUTHORITIES.mdm_identity(), authenticate())
        headers = [("Content-Type", message.content_type), ("Mdm-Signature", message.signature or "")]
        twice = [header for header in headers if header[0] == name]
        return [client.ask("PUT", "/checkin", message.body, *headers, *more) for more in ([], twice)]

    (once, _), (status, body) = asked(run_in_reactor, tmp_path, ask, certified=True)
    assert (once, status) == (403, 400)  # it is signed by another than TLS shows: but read
    assert name.lower() in body.decode()


@pytest.mark.parametrize("path", ["/enroll", "/checkin", "/mdm"])
def test_head_of_the_profile_is_refused(run_in_reactor: RunInReactor, tmp_path: Path, path: str) -> None:
    def ask(server: LabServer, client: Client) -> tuple[int, bytes, int]:
        issued: list[int] = []
        make = server.authorities.mdm_identity
        server.authorities.mdm_identity = lambda: issued.append(1) or make()  # type: ignore[method-assign]
        head = client.ask("HEAD", path)
        client.ask("GET", "/enroll")
        return *head, len(issued)

    assert asked(run_in_reactor, tmp_path, ask) == (405, b"", 1)


def test_bootstrap_token_for_another_udid_is_refused() -> None:
    lab = Lab()
    mine, others = enroll(lab), enroll(lab, OTHER)
    message = {"MessageType": "SetBootstrapToken", "BootstrapToken": b"mine"}
    lab.check_in(put(mine, {**message, "UDID": UDID}))
    lab.check_in(put(others, {**message, "BootstrapToken": b"others"}))  # whose it is, is known by the certificate
    for identity, udid in ((mine, OTHER), (others, UDID), (mine, "nobody"), (mine, ""), (mine, 3)):
        with pytest.raises(Refused) as refused:
            lab.check_in(put(identity, {**message, "BootstrapToken": b"stolen", "UDID": udid}))
        assert refused.value.status in (400, 401, 403)
    assert [mac.bootstrap_token for mac in lab.macs.values()] == [b"mine", b"others"]


@pytest.mark.parametrize("which", ["check_in", "report"])
def test_certificate_is_checked_before_the_plist_is_parsed(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    lab = Lab()
    identity = enroll(lab)
    good = put(identity, b"no plist", results.CONTENT_TYPE if which == "report" else checkin.CONTENT_TYPE)
    take = getattr(lab, which)
    with pytest.raises(Refused) as refused:
        take(good)
    assert refused.value.status == 400
    monkeypatch.setattr(plists, "load_dict", lambda *_arguments, **_keys: pytest.fail("the plist was parsed"))
    for changed, status in (({"fingerprint": None}, 401), ({"signature": None}, 400), ({"fingerprint": b"x"}, 403),
                            ({"signature": "AAAA"}, 400), ({"body": b"other"}, 400)):  # fmt: skip
        with pytest.raises(Refused) as refused:
            take(type(good)(**{**{name: getattr(good, name) for name in good.__slots__}, **changed}))
        assert refused.value.status == status


def test_reenrollment_is_allowed_unless_disabled() -> None:
    lenient, strict = Lab(), Lab(reenrollment=False)
    for lab in (lenient, strict):
        first, second = enroll(lab), AUTHORITIES.mdm_identity()
        enroll(lab, identity=first)  # with its own identity it may always
        lab.enqueue(UDID, {"RequestType": "ProfileList"})
        if lab is strict:
            with pytest.raises(Refused, match="check out"):
                enroll(lab, identity=second)
            assert report(lab, first, Status="Idle") != b""  # nothing is lost
            lab.check_in(put(first, {**token_update(), "MessageType": "CheckOut"}))
        enroll(lab, identity=second)
        assert report(lab, second, Status="Idle") == b""
        with pytest.raises(Refused):
            report(lab, first, Status="Idle")
