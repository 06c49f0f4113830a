"""A Device's answer to a LOM request, with the fault rule that hits it and a record of the exchange."""

from __future__ import annotations

from collections.abc import Callable

from agent.fleet.population import Mac
from agent.framing import HEADER_BYTES
from agent.lom.link import LinkAnswer, LinkRequest, RequestDelayed, RequestDropped
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.sessions.exchanging import record

_REFUSED = "a fault rule refuses the request"


def answer_lom(
    environment: Environment, mac: Mac, request: LinkRequest, carry_out: Callable[[], LinkAnswer]
) -> LinkAnswer:
    """The answer of a Device, from ``carry_out`` unless a rule says otherwise.

    Raises RequestDropped or RequestDelayed where the link is reset or the answer has to wait.
    """
    hit = environment.decide("lom_link", mac)
    opened = record(
        environment,
        mac,
        "lom_link",
        hit,
        request=request.encode()[HEADER_BYTES:],
        request_type=request.request.value,
        command_uuid=request.uuid,
    )
    do = None if hit is None else hit.rule.do

    def answered() -> LinkAnswer:
        answer = LinkAnswer(request.uuid, _REFUSED) if do == "refuse" else carry_out()
        if opened is not None:
            opened.end(response=answer.encode()[HEADER_BYTES:])
        return answer

    if do == "drop":
        error = RequestDropped("a fault rule had the Device reset the link")
        if opened is not None:
            opened.end(error=error)
        raise error
    if hit is not None and do == "delay":
        raise RequestDelayed(hit.rule.seconds or 0.0, answered)
    return answered()
