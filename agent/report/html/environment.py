"""How the HTML pages are made from templates: escaped, and without undefined names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str, shown: Callable[[Any], Any]) -> Environment:
    """The templates of a package. ``shown`` is called for each value, which the template engine escapes afterwards."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only when a page is written

    return Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
