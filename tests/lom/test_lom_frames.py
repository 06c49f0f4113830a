"""The LOM link without sockets: frames, and both ends back to back. No result depends on how the bytes are split."""

from __future__ import annotations

import plistlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies_lom import ANSWER_KEYS, KEYS, characters, cut, integers, link_requests, plist_dictionaries, texts

from agent.errors import MisuseError
from agent.framing import FrameReader, frame
from agent.lom.link import (
    MAX_ERROR_LENGTH,
    MAX_FRAME_BYTES,
    Acknowledgement,
    ControllerLink,
    DeviceLink,
    FrameMalformed,
    FrameTooLong,
    LinkAnswer,
    LinkError,
    LinkLimits,
    LinkRequest,
    VersionUnsupported,
    encode_frame,
    next_message,
    parse_answer,
    parse_request,
)
from agent.lom.requests import PowerRequest

REQUEST = LinkRequest("0001", "device.lom.test", PowerRequest.RESET)
FIRST = LinkRequest("0001", "device.lom.test", PowerRequest.RESET, 1)  # without acknowledgements
ANSWER = LinkAnswer("0001")


def binary(value: Any) -> bytes:
    """A frame with any value, encoded by the standard library."""
    return frame(plistlib.dumps(value, fmt=plistlib.FMT_BINARY))


def read(pieces: Iterable[bytes]) -> list[Any]:
    """The messages in ``pieces``, and last the class of the error that stopped the reading, if any."""
    reader = FrameReader(MAX_FRAME_BYTES)
    found: list[Any] = []
    for piece in pieces:
        reader.receive(piece)
        try:
            while (message := next_message(reader)) is not None:
                found.append(message)
        except LinkError as error:
            return [*found, type(error)]
    return found


def octet_by_octet(whole: bytes) -> list[bytes]:
    return [whole[at : at + 1] for at in range(len(whole))]


# Frames


def test_a_frame_is_its_length_and_a_binary_plist() -> None:
    whole = encode_frame({"a": 1})
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4
    assert plistlib.loads(whole[4:], fmt=plistlib.FMT_BINARY) == {"a": 1}


@given(st.lists(plist_dictionaries(*KEYS), max_size=2), st.data())
def test_frames_are_read_from_any_pieces(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    messages = [message for message in messages if len(binary(message)) <= 4 + MAX_FRAME_BYTES]
    whole = b"".join(map(encode_frame, messages))
    assert read(data.draw(cut(whole))) == messages
    assert read(octet_by_octet(whole)) == messages


def test_longest_frame_is_accepted_and_one_byte_more_refused() -> None:
    overhead = len(encode_frame({"a": b"x" * 3000})) - 4 - 3000
    longest = encode_frame({"a": b"x" * (MAX_FRAME_BYTES - overhead)})
    assert len(longest) == 4 + MAX_FRAME_BYTES
    assert read([longest]) == [{"a": b"x" * (MAX_FRAME_BYTES - overhead)}]
    with pytest.raises(FrameTooLong, match=str(MAX_FRAME_BYTES + 1)):
        encode_frame({"a": b"x" * (MAX_FRAME_BYTES - overhead + 1)})
    assert read([binary({"a": b"x" * (MAX_FRAME_BYTES - overhead + 1)})]) == [FrameTooLong]


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 1 << 16, (1 << 32) - 1])
def test_length_out_of_bounds_is_refused_before_the_body(length: int) -> None:
    assert read(octet_by_octet(length.to_bytes(4, "big"))) == [FrameTooLong]


@pytest.mark.parametrize(
    "body",
    [
        b"\0",
        b"bplist00",
        b"bplist01" + plistlib.dumps({}, fmt=plistlib.FMT_BINARY)[8:],
        plistlib.dumps({}, fmt=plistlib.FMT_BINARY)[:-1],
        plistlib.dumps({"a": 1}),
        b'{"a": 1}',
        plistlib.dumps([], fmt=plistlib.FMT_BINARY),
        plistlib.dumps("text", fmt=plistlib.FMT_BINARY),
        plistlib.dumps({"a": plistlib.UID(1)}, fmt=plistlib.FMT_BINARY),
        plistlib.dumps({"a": "\x00"}, fmt=plistlib.FMT_BINARY),
        # An array that contains itself.
        bytes.fromhex("62706c6973743030 d10102 5161 a102 08 0b 0d".replace(" ", ""))
        + bytes.fromhex("000000000000 01 01 0000000000000003 0000000000000000 000000000000000f".replace(" ", "")),
    ],
)
def test_frame_without_a_binary_plist_dictionary_is_refused(body: bytes) -> None:
    good = encode_frame({"a": 1})
    assert read([good + frame(body) + good]) == [{"a": 1}, FrameMalformed]


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(frame)
    | st.binary(max_size=60).map(lambda b: frame(b"bplist00" + b))
)
def test_any_bytes_are_frames_or_frame_errors(junk: bytes) -> None:
    assert repr(read([junk])) == repr(read(octet_by_octet(junk)))  # not a number is not equal to itself


@given(st.data())
def test_mutated_request_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(REQUEST.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    outcomes = []
    for pieces in ([bytes(whole)], octet_by_octet(bytes(whole))):
        link = DeviceLink()
        try:
            for piece in pieces:
                link.receive(piece)
            outcomes.append(link.next_message())
        except LinkError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


# Messages


@given(link_requests)
@example(LinkRequest("\U0001f5a5" * 256, "\U0001f5a5" * 253, PowerRequest.OFF, (1 << 64) - 1))
def test_every_request_fits_in_a_frame_and_survives_a_round_trip(request: LinkRequest) -> None:
    link = DeviceLink(version=max(request.version, 1))
    link.receive(request.encode())
    if request.version < 1:
        with pytest.raises(VersionUnsupported):
            link.next_message()
    else:
        assert link.next_message() == request


@given(uuid=st.text(characters, min_size=1, max_size=256), error=texts)
@example(uuid="\U0001f5a5" * 256, error="\U0001f5a5" * 5000)
def test_every_answer_fits_in_a_frame(uuid: str, error: str) -> None:
    link = ControllerLink(LinkRequest(uuid, "device.lom.test", PowerRequest.ON))
    assert link.receive(LinkAnswer(uuid, error).encode()) == LinkAnswer(uuid, error[:MAX_ERROR_LENGTH])


def message(**changes: Any) -> dict[str, Any]:
    good = {
        "LOMProtocolVersion": 1,
        "DeviceRequestUUID": "0001",
        "DeviceDNSName": "device.lom.test",
        "DeviceRequestType": "Reset",
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def test_a_request_with_keys_of_a_later_version_is_read() -> None:
    assert parse_request(message(Later=[1])) == FIRST
    assert parse_answer({"DeviceRequestUUID": "0001", "DeviceRequestSuccess": True, "Later": {}}) == ANSWER


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("LOMProtocolVersion", [None, True, 1.0, "1", b"\1", [1]]),
        ("DeviceRequestUUID", [None, 1, b"0001", "", "x" * 257, ["0001"]]),
        ("DeviceDNSName", [None, 1, b"device", "", "x" * 254]),
        ("DeviceRequestType", [None, 1, True, b"Reset", "reset", "PowerOn", "Restart", "", ["Reset"], {}]),
    ],
)
def test_request_with_a_wrong_value_is_refused_and_names_the_key(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(FrameMalformed, match=key):
            parse_request(message(**{key: value}))


@pytest.mark.parametrize("success", [None, 0, 1, "true", [True]])
def test_an_answer_without_a_boolean_is_refused(success: Any) -> None:
    answer = {"DeviceRequestUUID": "0001", "DeviceRequestSuccess": success}
    with pytest.raises(FrameMalformed, match="DeviceRequestSuccess"):
        parse_answer({key: value for key, value in answer.items() if value is not None})


@pytest.mark.parametrize("error", [None, "", 1, b"off", ["off"]])
def test_failure_without_a_reason_is_a_failure(error: Any) -> None:
    answer = {"DeviceRequestUUID": "0001", "DeviceRequestSuccess": False, "DeviceRequestReturnError": error}
    parsed = parse_answer({key: value for key, value in answer.items() if value is not None})
    assert parsed.error


def test_a_success_with_a_reason_is_a_success() -> None:
    answer = {"DeviceRequestUUID": "0001", "DeviceRequestSuccess": True, "DeviceRequestReturnError": "warm"}
    assert parse_answer(answer) == ANSWER


@given(plist_dictionaries(*KEYS) | plist_dictionaries(*ANSWER_KEYS))
def test_any_dictionary_is_a_message_or_frame_malformed(anything: dict[str, Any]) -> None:
    for parse in (parse_request, parse_answer):
        try:
            parsed = parse(anything)
        except (FrameMalformed, VersionUnsupported):
            continue
        assert parsed.uuid == anything["DeviceRequestUUID"]


# Both ends


@given(st.lists(st.tuples(link_requests, texts), max_size=3), st.data())
def test_both_ends_work_back_to_back(asked: list[tuple[LinkRequest, str]], data: st.DataObject) -> None:
    """All requests on one link, with bytes split in both directions."""
    device = DeviceLink(version=(1 << 64) - 1)
    for request, error in asked:
        assume(request.version > 0)
        controller = ControllerLink(request)
        given_out = []
        for piece in data.draw(cut(controller.start())):
            device.receive(piece)
            given_out += [complete for complete in ([] if given_out else [device.next_message()]) if complete]
        assert given_out == [request]
        pieces = data.draw(cut(device.answer(LinkAnswer(request.uuid, error))))
        heard = [answer for answer in map(controller.receive, pieces) if answer is not None]
        assert heard == [LinkAnswer(request.uuid, error[:MAX_ERROR_LENGTH])]
        acknowledged = []
        for piece in data.draw(cut(controller.take_acknowledgements())):
            device.receive(piece)
            acknowledged += [device.next_message()]
        assert [each for each in acknowledged if each] == [Acknowledgement(request.uuid)] * request.acknowledges
        assert not device.unacknowledged


def test_both_ends_work_byte_by_byte() -> None:
    controller, device = ControllerLink(REQUEST), DeviceLink()
    *most, last = octet_by_octet(controller.start())
    for octet in most:
        device.receive(octet)
        assert device.next_message() is None
    device.receive(last)
    assert device.next_message() == REQUEST
    *most, last = octet_by_octet(device.answer(LinkAnswer("0001", "off")))
    assert [controller.receive(octet) for octet in most] == [None] * len(most)
    assert controller.receive(last) == LinkAnswer("0001", "off")


def test_bytes_after_the_answer_are_ignored() -> None:
    for more in (b"\xff" * 8, ANSWER.encode(), b"\0\0"):
        assert ControllerLink(REQUEST).receive(ANSWER.encode() + more) == ANSWER


def test_an_answer_to_another_request_is_refused() -> None:
    with pytest.raises(FrameMalformed, match="request '0001', found one to '0002'"):
        ControllerLink(FIRST).receive(LinkAnswer("0002").encode())


def test_device_answers_valid_requests_before_an_invalid_one() -> None:
    device = DeviceLink()
    device.receive(REQUEST.encode() + b"\xff\xff\xff\xff")
    assert device.next_message() == REQUEST
    assert device.answer(ANSWER) == ANSWER.encode()
    with pytest.raises(FrameTooLong):
        device.next_message()


def test_a_device_answers_no_more_requests_than_its_limit() -> None:
    device = DeviceLink(LinkLimits(requests_a_link=3))
    device.receive(FIRST.encode() * 5)
    answered = 0
    while (request := device.next_message()) is not None:
        assert not device.finished
        device.answer(LinkAnswer(request.uuid))
        answered += 1
    assert answered == 3
    assert device.finished


def test_a_device_takes_the_acknowledgement_of_its_last_answer() -> None:
    device = DeviceLink(LinkLimits(requests_a_link=1))
    device.receive(REQUEST.encode() * 2)
    assert device.next_message() == REQUEST
    device.answer(ANSWER)
    assert not device.finished
    assert device.next_message() is None  # the second request is above the limit
    device.receive(Acknowledgement("0001").encode())
    assert device.next_message() == Acknowledgement("0001")
    assert device.finished


def test_each_request_has_one_answer() -> None:
    device = DeviceLink()
    with pytest.raises(MisuseError):
        device.answer(ANSWER)
    device.receive(REQUEST.encode() * 2)
    assert device.next_message() == REQUEST
    with pytest.raises(MisuseError):
        device.next_message()
    device.answer(ANSWER)
    with pytest.raises(MisuseError):
        device.answer(ANSWER)


@given(integers)
@example(0)
@example(3)
def test_a_version_that_the_device_does_not_speak_is_answered_whatever_else_is_wrong(version: int) -> None:
    for changes in ({}, {"DeviceDNSName": None}, {"DeviceRequestType": "Sleep"}, {"DeviceRequestUUID": 7}):
        device = DeviceLink()
        device.receive(binary(message(LOMProtocolVersion=version, **changes)) + FIRST.encode())
        if version in (1, 2):
            continue
        with pytest.raises(VersionUnsupported) as caught:
            device.next_message()
        uuid = "" if "DeviceRequestUUID" in changes else "0001"
        answer = LinkAnswer(uuid, f"LOMProtocolVersion: expected 1 or 2, found {version}")
        assert caught.value.answer == answer
        assert device.answer(answer) == answer.encode()
        assert device.next_message() == FIRST  # the link goes on


# Acknowledgements (version 2)


def test_a_controller_of_version_1_acknowledges_nothing() -> None:
    controller = ControllerLink(FIRST)
    assert controller.receive(ANSWER.encode()) == ANSWER
    assert controller.take_acknowledgements() == b""


def test_repeated_answers_are_acknowledged_before_the_own_one() -> None:
    controller, device = ControllerLink(REQUEST), DeviceLink()
    device.receive(controller.start())
    assert device.next_message() == REQUEST
    repeated = device.repeat([LinkAnswer("lost"), LinkAnswer("older", "off")])
    assert controller.receive(repeated) is None
    assert controller.receive(device.answer(ANSWER)) == ANSWER
    assert device.unacknowledged == {"lost", "older", "0001"}
    device.receive(controller.take_acknowledgements())
    assert [device.next_message() for _ in range(4)] == [*map(Acknowledgement, ("lost", "older", "0001")), None]
    assert not device.unacknowledged


def test_a_device_that_repeats_without_end_is_refused() -> None:
    controller = ControllerLink(REQUEST, LinkLimits(repeats_kept=2))
    with pytest.raises(FrameMalformed, match="request '0001', found one to 'old'"):
        controller.receive(LinkAnswer("old").encode() * 3)


def test_an_acknowledgement_of_nothing_is_of_no_consequence() -> None:
    device = DeviceLink()
    device.receive(Acknowledgement("never answered").encode() + REQUEST.encode())
    assert device.next_message() == REQUEST


def test_an_acknowledgement_without_a_uuid_is_refused() -> None:
    device = DeviceLink()
    device.receive(binary({"ResponseAcknowledged": True}))
    with pytest.raises(FrameMalformed, match="DeviceRequestUUID"):
        device.next_message()


def test_a_reason_above_the_limit_is_refused() -> None:
    longest = {"DeviceRequestUUID": "0001", "DeviceRequestSuccess": False, "DeviceRequestReturnError": "x" * 512}
    assert parse_answer(longest).error == "x" * 512
    with pytest.raises(FrameMalformed, match="DeviceRequestReturnError: expected at most 512 characters, found 513"):
        parse_answer({**longest, "DeviceRequestReturnError": "x" * 513})
