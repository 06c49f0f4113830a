"""Failed enrollments: each has a reason, and leaves this Mac and the next one unchanged."""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Mapping
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
from servers import HOST, Talk, answer, serving, until, unused_port

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
SPOILED: dict[str, tuple[Spoil, str]] = {
    "no MDM payload": (without(MDM), "no com.apple.mdm payload"),
    "its identity is missing": (without(PKCS12), "which it does not contain"),
    "no such UUID": (with_keys(MDM, IdentityCertificateUUID="0000"), "refers to the payload 0000"),
    "wrong password": (with_keys(PKCS12, Password="wrong"), "does not open"),
    "no PKCS12": (with_keys(PKCS12, PayloadContent=b"junk"), "not a PKCS12"),
    "no certificate": (with_keys(ROOT, PayloadContent=b"junk"), "cannot be read"),
    "no https": (with_keys(MDM, ServerURL="http://mdm.test/"), "expected an https URL"),
    "control character": (with_keys(MDM, ServerURL="https://a\x7fb/"), "expected an https URL"),
    "a number as topic": (with_keys(MDM, Topic=7), "wrong type"),
    "access rights that contradict": (with_keys(MDM, AccessRights=2), "AccessRights"),
}


def test_a_profile_that_a_mac_refuses(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        rows = {}
        for name, (spoil, words) in SPOILED.items():
            profile = mdm.profile()
            spoil(profile)
            rows[name] = ("profile", reply(answer(200, plistlib.dumps(profile))), "profile", words)
        _fail_and_recover(run_in_reactor, mdm, rows)


OTHER = Authority.create("Another CA")
SIGNER = OTHER.issue("signer", Usage())
NESTED = b"<array>" * 40 + b"</array>" * 40
NOT_A_PROFILE = {  # the body, the kind of the failure, and its words
    "empty": (b"", "plist", "not a property list"),
    "a web page": (b"<html>Please sign in</html>", "html_page", "Check the URL"),
    "broken CMS": (sign_attached(b"junk", SIGNER.certificate, SIGNER.key)[:-1], "profile", "signature"),
    "an array": (plistlib.dumps(["a"]), "plist", "to be a dictionary"),
    "another dictionary": (plistlib.dumps({"a": "b"}), "profile", "PayloadType"),
    "too deep": (b"<plist><dict><key>a</key>" + NESTED + b"</dict></plist>", "plist", "nested deeper"),
    "entities": (
        b'<!DOCTYPE plist [<!ENTITY a "b">]><plist><dict><key>a</key><string>&a;</string></dict></plist>',
        "plist",
        "entities",
    ),
}


def test_what_is_no_profile(run_in_reactor: RunInReactor) -> None:
    rows = {
        name: ("profile", reply(answer(200, body)), kind, words) for name, (body, kind, words) in NOT_A_PROFILE.items()
    }
    with scripted_mdm() as mdm:
        _fail_and_recover(run_in_reactor, mdm, rows)


REFUSALS = [
    ("profile", 404),
    ("profile", 500),
    ("Authenticate", 401),
    ("Authenticate", 403),
    ("Authenticate", 503),
    ("TokenUpdate", 400),
    ("TokenUpdate", 429),
    ("TokenUpdate", 500),
    ("SetBootstrapToken", 500),
]


def test_a_server_that_refuses(run_in_reactor: RunInReactor) -> None:
    rows = {
        f"{what} {status}": (
            what,
            reply(answer(status, b"no", "Content-Type: text/plain")),
            "http_status",
            f"{status}",
        )
        for what, status in REFUSALS
    }
    with scripted_mdm() as mdm:
        _fail_and_recover(run_in_reactor, mdm, rows)
        refused = [failed for failed in mdm.records("checkin", mdm.macs[0]) if failed.failure is not None]
        assert [record.facts["message"] for record in refused] == [what for what, _ in REFUSALS if what != "profile"]
        texts = [f"{what} with {status}" for what, status in REFUSALS if what != "profile"]
        for record, text in zip(refused, texts, strict=True):
            kind, found = failure(record)
            assert (kind, text in found) == ("http_status", True)


PAGE = b"<!doctype html><title>Sign in</title>"


PAGES = {
    "profile": "Check the URL, and that the profile is served to a Mac that has not logged in.",
    "Authenticate": "Check that the profile's CheckInURL leads to the MDM server",
    "TokenUpdate": "Check that the profile's CheckInURL leads to the MDM server",
}


def test_a_server_that_answers_a_web_page(run_in_reactor: RunInReactor) -> None:
    page = "an HTML page titled “Sign in”"
    rows = {}
    for what, words in PAGES.items():
        with_page = ", with " if what == "profile" else " instead of 200, with "
        for status, kind, message in (
            (200, "html_page", f"{page} (status 200). {words}"),
            (403, "http_status", f"403{with_page}{page}"),
        ):
            act = reply(answer(status, PAGE, "Content-Type: text/html; charset=utf-8"))
            rows[f"{what} {status}"] = (what, act, kind, message)
    with scripted_mdm() as mdm:
        _fail_and_recover(run_in_reactor, mdm, rows)


def test_wrong_content_type_without_a_page_is_reported_with_the_enrollment_url(run_in_reactor: RunInReactor) -> None:
    act = reply(answer(200, b"Please sign in", "Content-Type: text/html"))
    with scripted_mdm() as mdm:
        rows = {"no page": ("profile", act, "html_page", "/enroll, found an HTML page (status 200)")}
        _fail_and_recover(run_in_reactor, mdm, rows)


def test_a_check_in_answer_that_is_called_html_is_taken(run_in_reactor: RunInReactor) -> None:
    """As web frameworks answer by default; a Mac reads no body here."""
    with scripted_mdm() as mdm:

        async def scenario() -> None:
            async with closing(mdm):
                for what in ("Authenticate", "TokenUpdate"):
                    for body in (b"", b"OK"):
                        before = mdm.macs[0].device.enrollment
                        mdm.instead(what, reply(answer(200, body, "Content-Type: text/html")))
                        await mdm.macs[0].enroll_at(mdm.url)
                        assert mdm.macs[0].device.enrollment not in (None, before)

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


def test_a_connection_that_breaks(run_in_reactor: RunInReactor) -> None:
    rows = {
        f"{what} {name}": (what, act, "broken", "the peer")
        for what in ("profile", "Authenticate")
        for name, act in (("close_notify", Talk.close), ("end of TCP", Talk.drop), ("reset", Talk.reset))
    }
    with scripted_mdm() as mdm:
        _fail_and_recover(run_in_reactor, mdm, rows)


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
            act = reply(answer(200, plistlib.dumps(profile)))
            _fail_and_recover(run_in_reactor, mdm, {kind: ("profile", act, kind, "certificate")})
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


Row = tuple[str, Act, str, str]  # instead of what the server does it, the kind of the failure, and its words


def _fail_and_recover(run_in_reactor: RunInReactor, mdm: ScriptedMDM, rows: Mapping[str, Row]) -> None:
    """In each row the first Mac fails to enroll, and then enrolls; between two rows it leaves.

    The other Mac enrolls after the first failure. In the end both carry commands out.
    """
    victim, other = mdm.macs

    async def fail(name: str, what: str, act: Act, kind: str, words: str) -> None:
        mdm.instead(what, act)
        error, record = await fails_to_enroll(mdm)
        assert (error.kind, str(error)) == failure(record), name
        assert (error.kind, words in str(error)) == (kind, True), f"{name}: {error}"
        assert victim.device.enrollment is None, name
        victim.wake()  # a Mac that is not enrolled hears no push

    async def scenario() -> None:
        async with closing(mdm):
            for number, (name, row) in enumerate(rows.items()):
                if number:
                    victim.unenroll()
                    await until(lambda: mdm.seen[-1:] == [(mdm.victim, "CheckOut")])
                await fail(name, *row)
                if number == 0:
                    await other.enroll_at(mdm.url)
                await victim.enroll_at(mdm.url)
            await mdm.check_all_work()
            assert mdm.endings("enroll", victim) == [end for _, _, kind, _ in rows.values() for end in (kind, "good")]
            assert mdm.endings("enroll", other) == ["good"]

    run_in_reactor(scenario())
