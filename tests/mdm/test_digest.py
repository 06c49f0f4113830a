"""The answer to a DigestChallenge, with the examples of the RFCs."""

from __future__ import annotations

import pytest

from agent.mdm.digest import METHOD, DigestRefused, digest, digest_response, parts_of

CHALLENGE = 'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf", opaque="FQhe"'


def test_a_challenge_is_answered() -> None:
    answer = parts_of(digest_response(CHALLENGE, "Mufasa", "Circle of Life", "/checkin", "f2/w"))
    assert answer == {
        "username": "Mufasa", "realm": "http-auth@example.org", "nonce": "7ypf", "uri": "/checkin", "qop": "auth",
        "algorithm": "SHA-256", "opaque": "FQhe", "nc": "00000001", "cnonce": "f2/w",
        "response": digest("SHA-256", "http-auth@example.org", "7ypf", "Mufasa", "Circle of Life", "/checkin", "f2/w"),
    }  # fmt: skip


def test_the_digest_is_that_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.mdm.digest.METHOD", "GET")  # as in RFC 7616, 3.9.1
    asked = ("http-auth@example.org", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "Mufasa", "Circle of Life")
    nonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    assert digest("MD5", *asked, "/dir/index.html", nonce) == "8ca523f5e9506fed4657c9700eebdbec"
    sha = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    assert digest("SHA-256", *asked, "/dir/index.html", nonce) == sha
    assert METHOD == "PUT"


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("nonsense", "expected a challenge of HTTP Digest"),
        ('Digest realm="a"', "expected nonce in it, found realm"),
        ('Digest realm="a", nonce="b", algorithm=SHA-512', "found SHA-512"),
        ('Digest realm="a", nonce="b", qop="auth-int"', "expected auth in qop"),
        ("x" * 5000, "at most 4096 characters"),
        ('realm="a" nonce="b"', "expected a challenge of HTTP Digest"),
    ],
)
def test_a_challenge_that_no_mac_can_answer(challenge: str, words: str) -> None:
    with pytest.raises(DigestRefused, match=words):
        digest_response(challenge, "name", "password", "/", "c")


def test_a_challenge_without_qop_and_scheme() -> None:
    answer = parts_of(digest_response('realm="r", nonce="n"', "name", "password", "/", "c"))
    assert answer["response"] == digest("MD5", "r", "n", "name", "password", "/")
    assert "cnonce" not in answer
