"""Failed enrollments: each has a reason, and leaves this Mac and the next one unchanged."""

from __future__ import annotations

import plistlib
from collections.abc import Callable
from typing import Any

import pytest
from conftest import RunInReactor
from scripted_mdm import (
    Act,
    ScriptedMDM,
    closing,
    fails_to_enroll,
    failure,
    reply,
    scripted_mdm,
    udid,
)
from servers import HOST, Talk, answer, serving, unused_port

from agent.errors import PeerError
from agent.pki.cms_signing import sign_attached
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import SERVER_USAGE, Authority, Usage

Spoil = Callable[[dict[str, Any]], object]


def payload(profile: dict[str, Any], payload_type: str) -> dict[str, Any]:
    """The profile's one payload of a type."""
    (found,) = [each for each in profile["PayloadContent"] if each["PayloadType"] == payload_type]
    assert isinstance(found, dict)
    return found


def without(payload_type: str) -> Spoil:
    return lambda profile: profile["PayloadContent"].remove(payload(profile, payload_type))


def with_keys(payload_type: str, **keys: object) -> Spoil:
    return lambda profile: payload(profile, payload_type).update(keys)


MDM, PKCS12, ROOT = "com.apple.mdm", "com.apple.security.pkcs12", "com.apple.security.root"
SPOILED = [
    pytest.param(without(MDM), "no com.apple.mdm payload", id="no MDM payload"),
    pytest.param(without(PKCS12), "which it does not contain", id="its identity is missing"),
    pytest.param(with_keys(MDM, IdentityCertificateUUID="0000"), "refers to the payload 0000", id="no such UUID"),
    pytest.param(with_keys(PKCS12, Password="wrong"), "does not open", id="wrong password"),
    pytest.param(with_keys(PKCS12, PayloadContent=b"junk"), "not a PKCS12", id="no PKCS12"),
    pytest.param(with_keys(ROOT, PayloadContent=b"junk"), "cannot be read", id="no certificate"),
    pytest.param(with_keys(MDM, ServerURL="http://mdm.test/"), "expected an https URL", id="no https"),
    pytest.param(with_keys(MDM, ServerURL="https://a\x7fb/"), "expected an https URL", id="control character"),
    pytest.param(with_keys(MDM, Topic=7), "wrong type", id="a number as topic"),
    pytest.param(with_keys(MDM, AccessRights=2), "AccessRights", id="access rights that contradict"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_a_profile_that_a_mac_refuses(run_in_reactor: RunInReactor, spoil: Spoil, words: str) -> None:
    with scripted_mdm() as mdm:
        profile = mdm.profile()
        spoil(profile)
        mdm.instead("profile", reply(answer(200, plistlib.dumps(profile))))
        _fails_and_recovers(run_in_reactor, mdm, "profile", words)


OTHER = Authority.create("Another CA")
SIGNER = OTHER.issue("signer", Usage())
NESTED = b"<array>" * 40 + b"</array>" * 40
NOT_A_PROFILE = [
    pytest.param(b"", "plist", "not a property list", id="empty"),
    pytest.param(b"<html>Please sign in</html>", "html_page", "Check the URL", id="a web page"),
    pytest.param(sign_attached(b"junk", SIGNER.certificate, SIGNER.key)[:-1], "profile", "signature", id="broken CMS"),
    pytest.param(plistlib.dumps(["a"]), "plist", "to be a dictionary", id="an array"),
    pytest.param(plistlib.dumps({"a": "b"}), "profile", "PayloadType", id="another dictionary"),
    pytest.param(b"<plist><dict><key>a</key>" + NESTED + b"</dict></plist>", "plist", "nested deeper", id="too deep"),
    pytest.param(
        b'<!DOCTYPE plist [<!ENTITY a "b">]><plist><dict><key>a</key><string>&a;</string></dict></plist>',
        "plist",
        "entities",
        id="entities",
    ),
]


@pytest.mark.parametrize(("body", "kind", "words"), NOT_A_PROFILE)
def test_what_is_no_profile(run_in_reactor: RunInReactor, body: bytes, kind: str, words: str) -> None:
    with scripted_mdm() as mdm:
        mdm.instead("profile", reply(answer(200, body)))
        _fails_and_recovers(run_in_reactor, mdm, kind, words)


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("profile", 404),
        ("profile", 500),
        ("Authenticate", 401),
        ("Authenticate", 403),
        ("Authenticate", 503),
        ("TokenUpdate", 400),
        ("TokenUpdate", 429),
        ("TokenUpdate", 500),
        ("SetBootstrapToken", 500),
    ],
)
def test_a_server_that_refuses(run_in_reactor: RunInReactor, what: str, status: int) -> None:
    with scripted_mdm() as mdm:
        mdm.instead(what, reply(answer(status, b"no", "Content-Type: text/plain")))
        _fails_and_recovers(run_in_reactor, mdm, "http_status", f"{status}")
        victim = mdm.macs[0]
        refused = [record for record in mdm.records("checkin", victim) if record.failure is not None]
        if what == "profile":
            assert refused == []
        else:
            assert [record.facts["message"] for record in refused] == [what]
            kind, text = failure(refused[0])
            assert (kind, f"{what} with {status}" in text) == ("http_status", True)


PAGE = b"<!doctype html><title>Sign in</title>"


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("profile", "Check the URL, and that the profile is served to a Mac that has not logged in."),
        ("Authenticate", "Check that the profile's CheckInURL leads to the MDM server"),
        ("TokenUpdate", "Check that the profile's CheckInURL leads to the MDM server"),
    ],
)
def test_a_server_that_answers_a_web_page(run_in_reactor: RunInReactor, what: str, status: int, words: str) -> None:
    with scripted_mdm() as mdm:
        mdm.instead(what, reply(answer(status, PAGE, "Content-Type: text/html; charset=utf-8")))
        page = "an HTML page titled “Sign in”"
        kind, message = (
            ("html_page", f"{page} (status 200). {words}") if status == 200 else ("http_status", f"403{{}}{page}")
        )
        message = message.format(" instead of 200, with " if what != "profile" else ", with ")
        _fails_and_recovers(run_in_reactor, mdm, kind, message)


def test_wrong_content_type_without_a_page_is_reported_with_the_enrollment_url(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        mdm.instead("profile", reply(answer(200, b"Please sign in", "Content-Type: text/html")))
        _fails_and_recovers(run_in_reactor, mdm, "html_page", "/enroll, found an HTML page (status 200)")


@pytest.mark.parametrize("what", ["Authenticate", "TokenUpdate"])
@pytest.mark.parametrize("body", [b"", b"OK"])
def test_a_check_in_answer_that_is_called_html_is_taken(run_in_reactor: RunInReactor, what: str, body: bytes) -> None:
    """As web frameworks answer by default; a Mac reads no body here."""
    with scripted_mdm() as mdm:
        mdm.instead(what, reply(answer(200, body, "Content-Type: text/html")))

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.macs[0].enroll_at(mdm.url)
                assert mdm.macs[0].device.enrollment is not None

        run_in_reactor(scenario())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("status", "words"), [(400, "Does the server trust the CA"), (404, "Look at ServerURL")])
def test_error_of_a_refusal_has_a_hint(run_in_reactor: RunInReactor, status: int, words: str, signed: bool) -> None:
    with scripted_mdm() as mdm:
        profile = mdm.profile()
        with_keys(MDM, SignMessage=signed)(profile)
        mdm.instead("profile", reply(answer(200, plistlib.dumps(profile))))
        mdm.instead("Authenticate", reply(answer(status, b"no", "Content-Type: text/plain")))

        async def scenario() -> str:
            async with closing(mdm):
                error, _record = await fails_to_enroll(mdm)
                return str(error)

        text = run_in_reactor(scenario())
        assert words in text
        assert ("SignMessage = true" in text) == (status == 400 and not signed)


@pytest.mark.parametrize("act", [Talk.close, Talk.drop, Talk.reset], ids=["close_notify", "end of TCP", "reset"])
@pytest.mark.parametrize("what", ["profile", "Authenticate"])
def test_a_connection_that_breaks(run_in_reactor: RunInReactor, what: str, act: Act) -> None:
    with scripted_mdm() as mdm:
        mdm.instead(what, act)
        _fails_and_recovers(run_in_reactor, mdm, "broken", "the peer")


def test_a_kept_connection_that_breaks_between_two_messages_is_opened_again(run_in_reactor: RunInReactor) -> None:
    """The server may close after any answer; the message that meets that is sent once more, and it enrolls."""
    with scripted_mdm() as mdm:
        mdm.instead("TokenUpdate", Talk.close)

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert [what for who, what in mdm.seen if who == mdm.victim][:4] == [
            "profile",
            "Authenticate",
            "TokenUpdate",
            "TokenUpdate",
        ]


@pytest.mark.parametrize(
    ("issue", "kind"),
    [
        (lambda _: OTHER.issue("server", SERVER_USAGE, names=[HOST]), "tls_untrusted"),
        (lambda authorities: authorities.server_identity(["other.test"]), "tls_wrong_name"),
    ],
    ids=["untrusted", "wrong name"],
)
def test_a_server_that_is_not_the_one_meant(
    run_in_reactor: RunInReactor, issue: Callable[[Authorities], Identity], kind: str
) -> None:
    """The profile is at one server, and leads to another one, which gets no message."""
    with scripted_mdm() as mdm:
        with serving(identity=issue(mdm.running.server.authorities)) as wrong:
            profile = mdm.profile()
            payload(profile, MDM).update(ServerURL=f"{wrong.url}/mdm", CheckInURL=f"{wrong.url}/checkin")
            mdm.instead("profile", reply(answer(200, plistlib.dumps(profile))))
            _fails_and_recovers(run_in_reactor, mdm, kind, "certificate")
        assert wrong.requests == []


def test_the_profile_is_not_taken_from_an_untrusted_server(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm, serving(identity=OTHER.issue("server", SERVER_USAGE, names=[HOST])) as wrong:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                with pytest.raises(PeerError):
                    await victim.enroll_at(f"{wrong.url}/enroll")
                assert mdm.endings("enroll", victim) == ["tls_untrusted"]
                await mdm.enroll_all()
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert wrong.requests == []


def test_a_server_that_is_not_there(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                with pytest.raises(PeerError, match="Connection refused"):
                    await victim.enroll_at(f"https://{HOST}:{unused_port()}/enroll")
                assert mdm.endings("enroll", victim) == ["connect"]
                await mdm.enroll_all()
                await mdm.check_all_work()

        run_in_reactor(scenario())


@pytest.mark.parametrize("what", ["profile", "Authenticate", "TokenUpdate", "SetBootstrapToken"])
def test_a_mac_that_cannot_enroll_again_is_managed_as_before(run_in_reactor: RunInReactor, what: str) -> None:
    with scripted_mdm() as mdm:

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                before = mdm.macs[0].device.enrollment
                mdm.instead(what, reply(answer(500)))
                await fails_to_enroll(mdm)
                assert mdm.macs[0].device.enrollment is before
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert mdm.server is not None
        reports = [request for request in mdm.server.requests if request.target == "/mdm"]
        assert len({request.certificate for request in reports if mdm.victim.encode() in request.body}) == 1


def test_every_attempt_uses_the_identity_of_its_own_profile(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        mdm.instead("TokenUpdate", reply(answer(500)))

        async def scenario() -> None:
            async with closing(mdm):
                await fails_to_enroll(mdm)
                await mdm.enroll_all()
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert mdm.server is not None
        requests = [request for request in mdm.server.requests if mdm.victim.encode() in request.body]
        kinds = ["Authenticate", "TokenUpdate", "Authenticate", "TokenUpdate"]
        assert [plistlib.loads(request.body)["MessageType"] for request in requests[:4]] == kinds
        first, second = requests[0].certificate, requests[2].certificate
        assert [request.certificate for request in requests] == [first] * 2 + [second] * (len(requests) - 2)
        assert first != second
        assert first is not None


def test_two_macs_enroll_at_once_each_with_its_own_identity(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:

        async def scenario() -> None:
            async with closing(mdm):
                attempts = [_enrolling(mdm, number) for number in range(2)]
                for attempt in attempts:
                    await attempt
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert mdm.server is not None
        owners: dict[object, set[str]] = {}
        for request in mdm.server.requests:
            for client in mdm.macs:
                if udid(client).encode() in request.body:
                    owners.setdefault(request.certificate, set()).add(udid(client))
        assert sorted(map(sorted, owners.values())) == sorted([udid(client)] for client in mdm.macs)


def _enrolling(mdm: ScriptedMDM, number: int) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(mdm.macs[number].enroll_at(mdm.url))


def _fails_and_recovers(run_in_reactor: RunInReactor, mdm: ScriptedMDM, kind: str, words: str) -> None:
    """The first Mac fails; the second enrolls, then the first does; both carry commands out."""
    victim, other = mdm.macs

    async def scenario() -> None:
        async with closing(mdm):
            error, record = await fails_to_enroll(mdm)
            assert (error.kind, str(error)) == failure(record)
            assert (error.kind, words in str(error)) == (kind, True), str(error)
            assert victim.device.enrollment is None
            victim.wake()  # a Mac that is not enrolled hears no push
            await other.enroll_at(mdm.url)
            await victim.enroll_at(mdm.url)
            await mdm.check_all_work()
            assert mdm.endings("enroll", victim) == [kind, "good"]
            assert mdm.endings("enroll", other) == ["good"]

    run_in_reactor(scenario())
