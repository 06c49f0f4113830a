"""docs/architecture.md names files that exist, and lists every room in the order that the tests enforce."""

from __future__ import annotations

import re

from test_rooms import FOLDER, ROOMS, WITHOUT_IO

ROOT = FOLDER.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([a-z_]+/[\w/.]*)`")
ROOM = re.compile(r"^(?:no I/O| {6})  ([\w.]+) ", re.MULTILINE)
NO_IO = re.compile(r"^no I/O  ([\w.]+) ", re.MULTILINE)


def is_there(room: str) -> bool:
    path = FOLDER.joinpath(*room.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_file_named_in_architecture_page_exists() -> None:
    files = FILE.findall(PAGE)
    assert len(files) > 50
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_architecture_page_lists_the_rooms_in_import_order() -> None:
    assert ROOM.findall(PAGE) == [room for room in ROOMS if is_there(room) and room != "net"]
    assert NO_IO.findall(PAGE) == [room for room in WITHOUT_IO if is_there(room)]
