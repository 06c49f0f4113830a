"""The OpenAPI document and docs/control-api.md: valid, complete, and true of the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from control_clients import TOKEN, Party, with_server
from jsonschema import Draft202012Validator
from msgspec import Struct
from twisted.internet.threads import deferToThread

from agent.faults.rules import Rule
from agent.service import types
from agent.service.api.event_kinds import EVENT_KINDS
from agent.service.api.openapi import field_descriptions, openapi, path_template
from agent.service.api.problems import KINDS
from agent.service.api.reference import document, run_document
from agent.service.api.route_examples import BODIES, PROBLEM, UDID
from agent.service.api.routes import ROUTES, RUN_TITLE
from agent.service.api.run_routes import RUN_ROUTES
from agent.service.types import EventKind

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "control-api.md"
BLOCKS = re.findall(r"^### (\w+) (\S+)\n.*?```sh\n(.*?)```", document(), re.DOTALL | re.MULTILINE)


the_openapi = cache(openapi)  # to make it takes 40 ms


# The OpenAPI document


def test_the_document_is_valid_openapi() -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # not by each worker that collects this file

    OpenAPIV31SpecValidator(the_openapi()).validate()


def test_each_route_is_an_operation_and_each_operation_a_route() -> None:
    operations = {
        (operation["operationId"], method.upper(), path)
        for path, methods in the_openapi()["paths"].items()
        for method, operation in methods.items()
    }
    routes = {(route.name, route.method, path_template(route)) for route in ROUTES}
    assert operations == routes | {("metrics", "GET", "/metrics")}


def test_each_operation_lists_its_problems() -> None:
    for route in ROUTES:
        operation = the_openapi()["paths"][path_template(route)][route.method.lower()]
        answers = {int(status) for status in operation["responses"]}
        assert {400, 401, 403, 500, *route.problems} <= answers
        assert (413 in answers) == (route.body is not None)
        assert ("{" in operation["operationId"] or "<" in route.path) <= (404 in answers)
    assert {*KINDS} == {*PROBLEM}


def test_every_type_is_there_with_the_words_beside_its_fields() -> None:
    schemas = the_openapi()["components"]["schemas"]
    named = {name for name, each in vars(types).items() if isinstance(each, type) and issubclass(each, Struct)}
    assert named - {"Struct"} <= {*schemas}
    assert schemas["MacDetail"]["properties"]["udid"]
    assert schemas["MacDetail"]["properties"]["number"]["description"].startswith("Its number in this service")
    assert schemas["MacDetail"]["properties"]["topic"]["description"].startswith("The push topic")
    assert schemas["Rule"]["properties"]["every"]["description"].startswith("Only every Nth")
    assert "`after`" in schemas["Wait"]["description"]


def test_the_words_beside_a_field_are_those_below_it() -> None:
    assert field_descriptions(types.AdvanceClock) == {"advance": "Seconds."}
    assert field_descriptions(types.Power) == {}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.name)
def test_the_example_of_a_body_is_one(route) -> None:
    example = BODIES[route.name]
    msgspec.convert(example, route.body)
    components = the_openapi()["components"]
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{route.body.__name__}", "components": components})
    validator.validate(example)
    assert not validator.is_valid({**example, "unknown": 1})
    assert set(example) <= {field.encode_name for field in msgspec.structs.fields(route.body)}


def test_only_bodies_are_listed_as_examples() -> None:
    assert {*BODIES} == {route.name for route in (*ROUTES, *RUN_ROUTES) if route.body}
    assert Rule in {route.body for route in ROUTES}


def test_the_server_serves_it_without_the_token(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        party.client.headers.pop("Authorization")
        response = await party.ask("GET", "/openapi.json")
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == the_openapi()

    with_server(run_in_reactor, test)


# The page


def test_page_is_made_from_the_document() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == document(), (
        "write it: python -m agent.service.api.reference > docs/control-api.md"
    )


def test_the_page_on_a_run_is_what_its_document_says() -> None:
    text = run_document()
    assert REFERENCE.with_name("run-api.md").read_text(encoding="utf-8") == text, (
        "write it: python -m agent.service.api.reference run > docs/run-api.md"
    )
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert {f"{route.method} {route.path}" for route in RUN_ROUTES} < {*headings}
    assert {*openapi(RUN_ROUTES, RUN_TITLE)["components"]["schemas"]} < {*headings}
    assert {*re.findall(r"\]\(#([a-z-]+)\)", text)} <= {heading.lower() for heading in headings}


def test_the_page_has_every_request_type_and_kind_of_event() -> None:
    text = document()
    for path, methods in the_openapi()["paths"].items():
        for method in methods:
            assert f"\n### {method.upper()} {path}\n" in text
    for name in the_openapi()["components"]["schemas"]:
        assert f"\n### {name}\n" in text
    assert {*EVENT_KINDS} == {*get_args(EventKind)}
    for kind in EVENT_KINDS:
        assert f"\n| `{kind}` | " in text
    links = set(re.findall(r"\]\(#([a-z-]+)\)", text))
    assert links <= {heading.lower() for heading in re.findall(r"^#+ (\w+)$", text, re.MULTILINE)}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]} {block[1]}")
def test_commands_of_the_page_work(run_in_reactor, block, tmp_path) -> None:
    method, path, command = block
    output = tmp_path / "body"

    def run(url: str) -> str:
        line = command.replace("curl -sS", f"curl -sS --noproxy '*' --max-time 60 -o {output} -w '%{{http_code}}'")
        if path == "/v1/events":
            line = line.replace("--max-time 60", "--max-time 0.5")
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, check=False, env={**os.environ, "url": url, "token": TOKEN}
        )
        return done.stdout.decode()

    async def test(party: Party) -> str:
        await party.ask("POST", "/v1/macs/0/enroll")
        await party.ask("POST", "/v1/rules", json=BODIES["add_rule"])
        wanted = {name: value for name, value in BODIES["wait"].items() if name != "timeout"}
        party.service.events.add(wanted.pop("kind"), "It answers.", **wanted)
        return await deferToThread(run, party.server.url)

    status = with_server(run_in_reactor, test)
    operation = the_openapi()["paths"][path][method.lower()]
    assert status in operation["responses"]
    assert status.startswith("2"), output.read_text()
    if "application/json" in operation["responses"][status].get("content", {}):
        json.loads(output.read_text())


def test_there_is_a_command_for_every_request() -> None:
    assert len(BLOCKS) == len(ROUTES) + 1
    assert UDID in next(command for _, path, command in BLOCKS if path == "/v1/wait")
