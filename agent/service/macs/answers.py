"""What the Macs of a service answered to commands: the last answers, with what the server has accepted."""

from __future__ import annotations

from collections import deque

from msgspec import structs

from agent.service.types import Answer

MAX_ANSWERS = 20_000  # of all Macs; ours


class AnswerLog:
    """The last ``limit`` answers."""

    def __init__(self, limit: int = MAX_ANSWERS) -> None:
        self._limit = limit
        self._order: deque[str] = deque()  # the UDID of each answer, oldest first
        self._answers: dict[str, deque[Answer]] = {}

    def add(self, answer: Answer) -> None:
        """Keep an answer; the oldest one makes room for it."""
        if len(self._order) >= self._limit:
            udid = self._order.popleft()
            self._answers[udid].popleft()
            if not self._answers[udid]:
                del self._answers[udid]
        self._order.append(answer.udid)
        self._answers.setdefault(answer.udid, deque()).append(answer)

    def delivered(self, udid: str, command_uuid: str) -> None:
        """The server accepted the last answer of a Mac to this command."""
        answers = self._answers.get(udid, deque())
        for place in range(len(answers) - 1, -1, -1):
            if answers[place].command_uuid == command_uuid:
                answers[place] = structs.replace(answers[place], delivered=True)
                return

    def of(self, udid: str, command_uuid: str | None, limit: int) -> list[Answer]:
        """The last answers of a Mac, to one command or to all, oldest first."""
        found = [
            answer
            for answer in self._answers.get(udid, ())
            if command_uuid is None or answer.command_uuid == command_uuid
        ]
        return found[max(0, len(found) - limit) :]

    def clear(self, udid: str | None = None) -> None:
        """Forget every answer, or those of one Mac."""
        if udid is None:
            self._order.clear()
            self._answers.clear()
        elif self._answers.pop(udid, None) is not None:
            self._order = deque(each for each in self._order if each != udid)
