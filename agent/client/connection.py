"""Requests to the control API, with typed bodies and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from agent.client.errors import ClientError, EnrollmentFailed, NotFound, RequestRefused, WaitTimedOut
from agent.client.http import HTTPClient, NoAnswer, Response, path_segment
from agent.service.types import Event, Problem

AnswerT = TypeVar("AnswerT")

ANSWER_SECONDS = 30.0  # beyond the time that the service itself waits; a comment comes every 15 s in a stream of events
WORK_SECONDS = 300.0  # of requests about many Macs, or years of their clock


class Connection:
    """The control API at ``url``. It can be used by several threads at a time.

    An answer is awaited for ``patience`` seconds, or for as long as the request has the service wait and so much more.
    """

    def __init__(self, url: str, token: str, patience: float = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise ClientError(
                "Expected a token of printable ASCII characters without spaces, found something else. "
                "The token is `token` in the ready file."
            )
        try:
            self._http = HTTPClient(self.url, {"Authorization": f"Bearer {token}"})
        except ValueError as error:
            raise ClientError(f"{error} The URL of the control API is `control` in the ready file.") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, answer: type[AnswerT], /, **query: Any) -> AnswerT:
        """GET a typed answer; a query parameter that is None is left out."""
        return self._answer("GET", path, answer, None, query)

    def post(self, path: str, kind: type[AnswerT], body: msgspec.Struct | None = None, *, work: float = 0.0) -> AnswerT:
        """POST a typed body and return a typed answer, for which the service works so many seconds."""
        return self._answer("POST", path, kind, body, {}, work)

    def delete(self, path: str, /, *, work: float = 0.0, **query: Any) -> None:
        """DELETE what takes the service so many seconds."""
        self._send("DELETE", path, None, query, work)

    def send(self, method: str, path: str) -> None:
        """A request without a body and without an answer."""
        self._send(method, path, None, {})

    def content(self, path: str) -> bytes:
        """GET an answer that is not JSON."""
        return self._send("GET", path, None, {}).content

    def events(self, path: str, /, **query: Any) -> Iterator[Event]:
        """GET server-sent events, as they come, without an end."""
        try:
            with self._http.stream(path, _texts(query), seconds=self._patience) as (status, lines):
                if status >= 400:
                    raise _refusal(path, Response(status, b"".join(lines)))
                for line in lines:
                    if line.startswith(b"data:"):
                        yield self._decoded(f"GET {path}", line.removeprefix(b"data:"), Event)
        except NoAnswer as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: NoAnswer) -> ClientError:
        do = "Use it before it is closed, or connect again" if self._http.closed else "Check that it still runs"
        return ClientError(f"Expected an answer from the service at {self.url} {error}. {do}.")

    def _answer(
        self,
        method: str,
        path: str,
        kind: type[AnswerT],
        body: msgspec.Struct | None,
        query: dict[str, Any],
        work: float = 0.0,
    ) -> AnswerT:
        response = self._send(method, path, body, query, work)
        return self._decoded(f"{method} {path}", response.content, kind)

    def _decoded(self, asked: str, content: bytes, kind: type[AnswerT]) -> AnswerT:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"Expected {asked} of {self.url} to answer as the control API of this version does, found: "
                f"{error}. Use the same version of lom-agent for the service and its client."
            ) from error

    def _send(
        self, method: str, path: str, body: msgspec.Struct | None, query: dict[str, Any], work: float = 0.0
    ) -> Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        seconds = getattr(body, "timeout", work) + self._patience
        try:
            response = self._http.request(method, path, content, seconds=seconds, query=_texts(query), headers=headers)
        except NoAnswer as error:
            raise self._no_answer(error) from error
        if response.status >= 400:
            raise _refusal(path, response)
        return response


def path(*parts: object) -> str:
    """The path of a request, each part quoted."""
    return "/v1/" + "/".join(path_segment(str(part)) for part in parts)


def _texts(query: dict[str, Any]) -> dict[str, str]:
    """The parameters as they are sent, without those that are None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in query.items()
        if value is not None
    }


def _refusal(path: str, response: Response) -> RequestRefused:
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:
        problem = Problem(
            type="about:blank", title=f"HTTP status {response.status}", status=response.status,
            detail=response.text[:500],
        )  # fmt: skip
    if path.endswith("/enroll") and problem.status in (409, 502, 504):
        return EnrollmentFailed(problem)
    kinds = {404: NotFound, 504: WaitTimedOut}
    return kinds.get(problem.status, RequestRefused)(problem)
