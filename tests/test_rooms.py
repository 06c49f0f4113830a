"""The layers of the package: a room imports only from rooms above it, or from itself; the first ones do no I/O.

A room is a module or a folder of ``agent``. Imports within functions and for type checkers count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from collections_off import without_collections

ROOMS = (
    "errors",
    "framing",
    "unix",
    "processes",
    "files",
    "sqlite_file",
    "settings",
    "pki",
    "plists",
    "push",
    "measure",
    "mdm",
    "lom",
    "report",
    "fleet",
    "profiles",
    "faults",
    "device",
    "net",
    "net.timing",
    "net.transport",
    "net.http",
    "net.lom",
    "net.apns",
    "net.mac",
    "state",
    "servers",
    "lab",
    "scenario",
    "load",
    "service",
    "conform",
    "client",
    "cli",
    "pytest_plugin",
    "__main__",
)
PACKAGE = "agent"
FOLDER = Path(__file__).parent.parent / PACKAGE
WITHOUT_IO = (
    "errors", "framing", "settings", "pki", "plists", "push", "mdm", "lom", "fleet", "profiles",
    "faults", "device",
)  # fmt: skip
FRONT_DOORS = ("cli", "pytest_plugin", "__main__")
IO_MODULES = ("asyncio", "http", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time", "twisted")


@dataclass(frozen=True)
class Arrow:
    """One import: the module that makes it, its line, and the full name of what it imports."""

    module: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def wrong_arrows(folder: Path) -> list[str]:
    """Every import within the package at ``folder`` that goes the wrong way, or from or to an unknown room."""
    return [message for arrow in arrows(folder) if (message := _judged(arrow)) is not None]


@cache
def arrows(folder: Path) -> tuple[Arrow, ...]:
    """Every import of every module, also those in functions and for type checkers."""
    with without_collections():
        return tuple(_arrows(folder))


def _arrows(folder: Path) -> Iterator[Arrow]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        module = ".".join([PACKAGE, *(part for part in parts if part != "__init__")])
        is_package = path.name == "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for target in _targets(node, module, is_package):
                yield Arrow(module, node.lineno, target)


def _targets(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            up = module.split(".")
            up = up[: len(up) - node.level + is_package]
            base = ".".join([*up, base] if base else up)
        yield from (f"{base}.{name.name}" for name in node.names)
    elif isinstance(node, ast.Call) and _name(node.func).endswith(("import_module", "__import__")):
        yield ast.literal_eval(node.args[0])


def _name(function: ast.expr) -> str:
    """The last part of the name of what is called."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _judged(arrow: Arrow) -> str | None:
    if arrow.target.partition(".")[0] != PACKAGE or arrow.target == f"{PACKAGE}.__version__":
        return None
    source, target = _room(arrow.module), _room(arrow.target)
    for room in (source, target):
        if room not in ROOMS:
            return f"{arrow}: {room or PACKAGE} is no room of the house"
    if ROOMS.index(target) > ROOMS.index(source):
        return f"{arrow}: the room {source} stands above the room {target}"
    return None


def _room(name: str) -> str:
    """The room of a module: the folder below the package, or below ``net``, whose floors are rooms of their own."""
    _, room, floor, *_ = [*name.split("."), "", ""]
    return f"{room}.{floor}" if f"{room}.{floor}" in ROOMS else room


def modules(rooms: tuple[str, ...]) -> list[str]:
    """Every module of these rooms."""
    found = set()
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        if parts[0] in rooms:
            found.add(".".join([PACKAGE, *(part for part in parts if part != "__init__")]))
    return sorted(found)


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """The names in ``sys.modules`` of a new interpreter after importing the rooms without I/O, and then the others.

    The others are those behind ``FRONT_DOORS``.
    """
    behind = tuple(room for room in ROOMS if room not in FRONT_DOORS)
    program = "import sys\n"
    for names in (modules(WITHOUT_IO), modules(behind)):
        program += f"for name in {names!r}: __import__(name)\nprint(*sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    first, second = done.stdout.decode().splitlines()
    return set(first.split()), set(second.split())


# The house


def test_a_room_imports_only_from_rooms_above_it() -> None:
    assert arrows(FOLDER)
    assert wrong_arrows(FOLDER) == []


@pytest.mark.slow
def test_the_rooms_without_io_load_no_twisted(loaded: tuple[set[str], set[str]]) -> None:
    names = modules(WITHOUT_IO)
    assert {"agent.errors", "agent.plists", "agent.mdm.session", "agent.device.mac"} <= set(names)
    first, _ = loaded
    assert set(names) <= first
    assert not {name for name in first if name.partition(".")[0] == "twisted"}


def test_rooms_without_io_import_no_io_and_no_clock() -> None:
    found = [
        str(arrow)
        for arrow in arrows(FOLDER)
        if _room(arrow.module) in WITHOUT_IO and arrow.target.partition(".")[0] in IO_MODULES
    ]
    assert found == []


def test_only_cli_modules_import_a_reactor() -> None:
    found = {_room(arrow.module) for arrow in arrows(FOLDER) if arrow.target == "twisted.internet.reactor"}
    assert "cli" in found
    assert found <= set(FRONT_DOORS)


@pytest.mark.slow
def test_other_modules_load_without_a_reactor(loaded: tuple[set[str], set[str]]) -> None:
    _, second = loaded
    assert "twisted" in second
    assert "twisted.internet.reactor" not in second


# The checker


def tree(folder: Path, texts: dict[str, str]) -> Path:
    """A package of these modules, by path without suffix."""
    for name, text in texts.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("import agent.net.http", "agent.net.http"),
        ("import os, agent.net.http as http", "agent.net.http"),
        ("from agent import net", "agent.net"),
        ("from agent.net import http", "agent.net.http"),
        ("from agent.net.http import get", "agent.net.http.get"),
        ("from agent.net.http import *", "agent.net.http.*"),
        ("from .. import net", "agent.net"),
        ("from ..net.http import get", "agent.net.http.get"),
        ("def f():\n    from agent.net import http", "agent.net.http"),
        ("if TYPE_CHECKING:\n    from agent.net import http", "agent.net.http"),
        ("try:\n    pass\nexcept E:\n    import agent.net", "agent.net"),
        ("class C:\n    import agent.net", "agent.net"),
        ("importlib.import_module('agent.net')", "agent.net"),
        ("__import__('agent.net')", "agent.net"),
    ],
)
def test_import_against_the_order_is_reported(tmp_path: Path, text: str, target: str) -> None:
    line = text.count("\n") + 1
    assert wrong_arrows(tree(tmp_path, {"mdm/session": text})) == [
        f"agent.mdm.session:{line} imports {target}: the room mdm stands above the room {_room(target)}"
    ]


def test_import_in_order_is_not_reported(tmp_path: Path) -> None:
    folder = tree(
        tmp_path,
        {
            "errors": "import os",
            "mdm/__init__": "from . import session",
            "mdm/session": "from agent import errors, plists\nfrom . import commands\nfrom .. import __version__",
            "net/http": "import agent.mdm.session\nimport twisted.internet",
            "cli": "from agent.net import http\nfrom agent import __version__",
        },
    )
    assert len(arrows(folder)) == 10
    assert wrong_arrows(folder) == []


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (
            {"attic/box": "import agent.errors"},
            "agent.attic.box:1 imports agent.errors: attic is no room of the house",
        ),
        ({"cli": "import agent.attic"}, "agent.cli:1 imports agent.attic: attic is no room of the house"),
        ({"cli": "import agent"}, "agent.cli:1 imports agent: agent is no room of the house"),
        ({"__init__": "from agent import cli"}, "agent:1 imports agent.cli: agent is no room of the house"),
    ],
)
def test_unlisted_room_is_reported(tmp_path: Path, texts: dict[str, str], complaint: str) -> None:
    assert wrong_arrows(tree(tmp_path, texts)) == [complaint]


def test_test_file_names_are_unique() -> None:
    """Pytest imports a test file by its name alone: two of the same name cannot be collected."""
    names = sorted(path.name for path in Path(__file__).parent.rglob("*.py"))
    assert names == sorted(set(names))
