"""A Mac's reports as HTTP requests. What is the same in every report to one URL is made once for the whole fleet."""

from __future__ import annotations

from functools import lru_cache

from agent.mdm import results
from agent.mdm.checkin import USER_AGENT
from agent.net.http1 import Origin, RequestHead, split_url
from agent.pki.cms import mdm_signature
from agent.profiles.enrolment import Enrolment

_KEPT_HEADS = 256  # a fleet has one ServerURL and maybe some redirects; where each Mac has its own, they are made anew


def report_request(enrolment: Enrolment, url: str, body: bytes) -> tuple[Origin, bytes]:
    """Where a report goes, and its request, signed where the enrolment says so. Raises OperatorError for no URL."""
    origin, head = _head(url)
    if not enrolment.sign_message:
        return origin, head.request(body)
    identity = enrolment.identity
    signature = mdm_signature(body, identity.certificate, identity.key)
    return origin, head.request(body, {"Mdm-Signature": signature})


@lru_cache(_KEPT_HEADS)
def _head(url: str) -> tuple[Origin, RequestHead]:
    origin, target = split_url(url)
    headers = {"User-Agent": USER_AGENT, "Content-Type": results.CONTENT_TYPE}
    return origin, RequestHead("PUT", origin, target, headers)
