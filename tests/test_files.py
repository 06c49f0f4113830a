"""Bounded reads and atomic writes of the operator's files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.errors import OperatorError
from agent.files import read_file, write_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_of_at_most_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, "the file", 5) == b"12345"


def test_file_over_the_limit_is_refused_with_limit_and_advice(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1001)
    with pytest.raises(OperatorError) as refused:
        read_file(file, "the file", 1000, advice="Split it.")
    assert str(refused.value) == f"Expected at most 1,000 bytes in the file {file}, found more. Split it."


def test_endless_file_is_read_up_to_the_limit_only() -> None:
    with pytest.raises(OperatorError, match="Expected at most 10 bytes in the file /dev/zero, found more"):
        read_file("/dev/zero", "the file", 10)


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file or directory"), (".", "Is a directory"), ("a\0b", "null")]
)
def test_unreadable_file_raises_operator_error(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(OperatorError, match="the file .* cannot be read: .*" + reason):
        read_file(f"{tmp_path}/{name}", "the file", 10)


def test_private_file_has_mode_0600_even_when_it_replaces_a_public_one(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    assert write_file(file, b"old") == file
    file.chmod(0o644)
    write_file(file, b"new", private=True)
    assert (file.read_bytes(), mode_of(file)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [file]


def test_folders_are_created_only_on_request(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b"
    with pytest.raises(OperatorError, match=r"a/b cannot be written: No such file or directory\. Name a file"):
        write_file(file, b"text")
    write_file(file, b"text", make_folder=True)
    assert file.read_bytes() == b"text"


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_file(file, b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OperatorError, match="file cannot be written: No space left on device"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_device_and_a_pipe_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert write_file(pipe, b"text") == pipe
        assert os.read(reader, 10) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    write_file(link, b"text", private=True)
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_a_pipe_without_a_reader_and_a_full_device_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OperatorError, match="pipe cannot be written: No such device or address"):
        write_file(pipe, b"text")
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OperatorError, match="full cannot be written: No space left on device"):
        write_file(full, b"text")
