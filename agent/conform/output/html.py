"""The report as one HTML file: no script, no other host; the evidence is folded under each verdict."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from agent.conform.verdicts.document import Report
from agent.report.html.environment import page_environment
from agent.report.terminal.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_BODY = 20_000  # characters of a body


def html(report: Report) -> str:
    """The page."""
    style = (resources.files(__package__) / "templates" / "conform.css").read_text(encoding="utf-8")
    return _environment().get_template("conform.html").render(report=report, style=Markup(style))  # noqa: S704


@cache
def _environment() -> Environment:
    environment = page_environment(__package__, _shown)
    environment.filters["body"] = _body
    return environment


def _body(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= _MOST_BODY else f"{text[:_MOST_BODY]}…"


def _shown(value: Any) -> Any:
    """The value of an expression; the template engine escapes it afterwards. Line ends of a body stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(visible(line) for line in value.split("\n"))
