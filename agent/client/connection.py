"""Requests to the control API, with typed bodies and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from agent.client.errors import ClientError, EnrollmentFailed, NotFound, RequestRefused, WaitTimedOut
from agent.service.types import MAX_TIMEOUT_SECONDS, Event, Problem

if TYPE_CHECKING:
    import httpx

AnswerT = TypeVar("AnswerT")

_CONNECT_SECONDS = 10.0
_EXTRA_SECONDS = 30.0  # beyond the time that the service itself waits


class Connection:
    """The control API at ``url``. It can be used by several threads at a time."""

    def __init__(self, url: str, token: str) -> None:
        import httpx  # takes as long as the start of a service, which goes on meanwhile: see `Fleet.start`

        self.url = url.rstrip("/")
        timeout = httpx.Timeout(MAX_TIMEOUT_SECONDS + _EXTRA_SECONDS, connect=_CONNECT_SECONDS)
        # The service is on this machine or near: a proxy of the environment would be in the way.
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, answer: type[AnswerT], /, **query: Any) -> AnswerT:
        """GET a typed answer; a query parameter that is None is left out."""
        return self._answer("GET", path, answer, None, query)

    def post(self, path: str, kind: type[AnswerT], body: msgspec.Struct | None = None) -> AnswerT:
        """POST a typed body and return a typed answer."""
        return self._answer("POST", path, kind, body, {})

    def delete(self, path: str, /, **query: Any) -> None:
        """DELETE."""
        self._send("DELETE", path, None, query)

    def send(self, method: str, path: str) -> None:
        """A request without a body and without an answer."""
        self._send(method, path, None, {})

    def content(self, path: str) -> bytes:
        """GET an answer that is not JSON."""
        return self._send("GET", path, None, {}).content

    def events(self, path: str, /, **query: Any) -> Iterator[Event]:
        """GET server-sent events, as they come, without an end."""
        import httpx

        wanted = {name: _text(value) for name, value in query.items() if value is not None}
        try:
            with self._http.stream("GET", path, params=wanted) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(path, response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield msgspec.json.decode(line.removeprefix("data:"), type=Event)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: httpx.HTTPError) -> ClientError:
        return ClientError(
            f"Expected an answer from the service at {self.url}, found: {error or type(error).__name__}. Check that it "
            "still runs."
        )

    def _answer(
        self, method: str, path: str, kind: type[AnswerT], body: msgspec.Struct | None, query: dict[str, Any]
    ) -> AnswerT:
        response = self._send(method, path, body, query)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"Expected {method} {path} of {self.url} to answer as the control API of this version does, found: "
                f"{error}. Use the same version of lom-agent for the service and its client."
            ) from error

    def _send(self, method: str, path: str, body: msgspec.Struct | None, query: dict[str, Any]) -> httpx.Response:
        import httpx

        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        wanted = {name: _text(value) for name, value in query.items() if value is not None}
        try:
            response = self._http.request(method, path, content=content, headers=headers, params=wanted)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        if response.status_code >= 400:
            raise _refusal(path, response)
        return response


def path(*parts: object) -> str:
    """The path of a request, each part quoted."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusal(path: str, response: httpx.Response) -> RequestRefused:
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:
        problem = Problem(
            type="about:blank", title=f"HTTP status {response.status_code}", status=response.status_code,
            detail=response.text[:500],
        )  # fmt: skip
    if path.endswith("/enroll") and problem.status in (502, 504):
        return EnrollmentFailed(problem)
    kinds = {404: NotFound, 504: WaitTimedOut}
    return kinds.get(problem.status, RequestRefused)(problem)
