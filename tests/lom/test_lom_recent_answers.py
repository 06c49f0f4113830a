"""Recent answers of a Device: limited in time and number, and separate for each Controller."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.lom.link import LIMITS, LinkAnswer, LinkRequest
from agent.lom.recent_answers import RecentAnswers
from agent.lom.requests import PowerRequest

WINDOW = LIMITS.repeat_seconds
CONTROLLER = "controller.lom.test"


def request(uuid: str = "0001", request_type: PowerRequest = PowerRequest.RESET) -> LinkRequest:
    return LinkRequest(uuid, "device.lom.test", request_type)


def answered_at(now: float, answer: LinkAnswer | None = None) -> RecentAnswers:
    answered = RecentAnswers()
    answered.keep(CONTROLLER, request(), answer or LinkAnswer("0001"), now)
    return answered


def test_repeated_request_gets_the_same_answer() -> None:
    refused = LinkAnswer("0001", "Reset refused: the Mac is off")
    assert answered_at(10.0, refused).repeated(CONTROLLER, request(), 10.0) == refused


def test_request_of_another_controller_or_uuid_is_new() -> None:
    answered = answered_at(10.0)
    assert answered.repeated("other", request(), 10.0) is None
    assert answered.repeated(CONTROLLER, request("0002"), 10.0) is None


def test_uuid_reused_for_another_request_type_is_an_error() -> None:
    answered = answered_at(10.0)
    answer = answered.repeated(CONTROLLER, request(request_type=PowerRequest.OFF), 10.0)
    assert answer is not None
    assert answer.uuid == "0001"
    assert answer.error == "DeviceRequestUUID '0001' was used for Reset before; PowerOFF needs a new one"
    assert answered.repeated(CONTROLLER, request(), 10.0) == LinkAnswer("0001")


def test_answer_is_remembered_for_a_limited_time() -> None:
    answered = answered_at(10.0)
    assert answered.repeated(CONTROLLER, request(), 9.9 + WINDOW) is not None
    assert answered.repeated(CONTROLLER, request(), 10.0 + WINDOW) is None
    assert len(answered) == 0


def test_forgotten_request_is_new() -> None:
    answered = answered_at(10.0)
    answered.forget(CONTROLLER, "0001")
    answered.forget(CONTROLLER, "0001")
    assert answered.repeated(CONTROLLER, request(), 10.0) is None


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=2), st.floats(0.0, WINDOW / 2))),
    st.integers(1, 5),
)
def test_only_the_newest_answers_are_kept(asked: list[tuple[str, str, float]], most: int) -> None:
    answered = RecentAnswers(replace(LIMITS, repeats_kept=most))
    now = 0.0
    order: dict[tuple[str, str], float] = {}
    for controller, uuid, seconds in asked:
        now += seconds
        answered.keep(controller, request(uuid), LinkAnswer(uuid), now)
        order.pop((controller, uuid), None)
        order[controller, uuid] = now
        known = {key for key in list(order)[-most:] if now < order[key] + WINDOW}
        for key in order:
            assert (answered.repeated(key[0], request(key[1]), now) is not None) == (key in known)
        assert len(answered) == len(known)
