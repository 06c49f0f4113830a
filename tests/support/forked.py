"""``lom-agent`` in processes that are forked from one that has imported its modules already.

Each is a process of its own, with its arguments, environment, signals, output and exit status, and so are its workers;
but none spends a second of CPU on imports. What happens until the modules are imported shows only the installed
command: see ``command``.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pkgutil import walk_packages
from threading import Timer
from types import ModuleType
from typing import Any
from unittest import mock

import agent

SECONDS = 120.0
NOT_OF_THE_COMMAND = ("agent.__main__", "agent.pytest_plugin")
MODULES = [module.name for module in walk_packages(agent.__path__, "agent.") if module.name not in NOT_OF_THE_COMMAND]
IMPORTED_LATE = ["jinja2", "rich._emoji_codes", "twisted.internet.epollreactor"]
START_CHILDREN = ("agent.processes", "agent.net.mac.fleet.keys")  # the modules that do

ForkServerContext().set_forkserver_preload(
    ["settable_clock", *MODULES, *IMPORTED_LATE, "encodings.unicode_escape", "prepared"]
)


def _start_server() -> None:
    """Start it unless it runs; it imports from this folder, too."""
    path = os.pathsep.join(filter(None, (os.path.dirname(__file__), os.environ.get("PYTHONPATH"))))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()


class Descriptor:
    """A file descriptor, duplicated for the process to which it is an argument."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return DupFd(self.number)

    def __setstate__(self, duplicate: Any) -> None:
        self.number = duplicate.detach()


class Place:
    """The standard files, environment, folder and process group of a process."""

    def __init__(self, files: Sequence[int], environment: Mapping[str, str], group: int = 0) -> None:
        self._files = [Descriptor(number) for number in files]
        self._environment = dict(environment)
        self._folder = os.getcwd()
        self._group = group
        _start_server()
        self._server: str = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]

    def take(self) -> None:
        """Put this process there, and its children into the same server's care: a child does not know its address."""
        server: Any = forkserver._forkserver  # type: ignore[attr-defined]
        server._forkserver_address, server.ensure_running = self._server, lambda: None
        forkserver.ensure_running = server.ensure_running
        os.setpgid(0, self._group)
        for number, file in enumerate(self._files):
            os.dup2(file.number, number)
            os.close(file.number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False)  # noqa: SIM115
            for number, mode in enumerate("rww")
        )
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)


class Forked:
    """One command that runs. Its standard error is read at its end or, with ``mixed``, is its standard output.

    It leads a process group, which its workers are in. ``patch`` is executed first in each of its processes. ``module``
    is another program than the command: its ``main`` is called.
    """

    def __init__(
        self,
        *arguments: str,
        stdin: bytes = b"",
        mixed: bool = False,
        patch: str = "",
        module: str = "agent.cli",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        read, write = os.pipe()
        self.stdout: io.BufferedReader = open(read, "rb")  # noqa: SIM115
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._arguments = arguments
        with tempfile.TemporaryFile() as given, open(write, "wb") as output:
            given.write(stdin)
            given.seek(0)
            files = [given.fileno(), output.fileno(), (output if mixed else self._errors).fileno()]
            with _nothing_to_import_again():
                place = Place(files, os.environ if environment is None else environment)
                self._process = ForkServerProcess(target=_command, args=(arguments, place, patch, module))
                self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_group()
        self._process.join()
        self.stdout.close()
        self._errors.close()

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, as of subprocess.Popen."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the command alone."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command alone."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self) -> None:
        """Kill the command and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = SECONDS) -> int:
        """Wait for the end; the exit status."""
        self._process.join(timeout)
        assert self.returncode is not None, f"{self._arguments} did not end within {timeout:g} s"
        return self.returncode

    def communicate(self, timeout: float = SECONDS) -> tuple[bytes, bytes]:
        """Wait for the end; the rest of the standard output, and all of the standard error."""
        late = Timer(timeout, self.kill_group)
        late.start()
        try:
            rest = b"" if self.stdout.closed else self.stdout.read()
        finally:
            late.cancel()
        self.wait(timeout)
        self._errors.seek(0)
        return rest, self._errors.read()


@contextmanager
def _nothing_to_import_again() -> Iterator[None]:
    """Without a main module, which a process of multiprocessing would import: it is pytest's."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _command(arguments: tuple[str, ...], place: Place, patch: str, module: str) -> None:
    place.take()
    assert "twisted.internet.reactor" not in sys.modules, "each process has a reactor of its own"
    _begin(patch)
    sys.argv = ["lom-agent", *arguments]
    import_module(module).main()


def _worker(place: Place, patch: str, work: Callable[..., Any], arguments: tuple[Any, ...], named: Any) -> None:
    place.take()
    _begin(patch)
    work(*arguments, **named)


def _begin(patch: str) -> None:
    context = Workers(patch)
    for name in START_CHILDREN:
        import_module(name).get_context = lambda _method: context
    exec(patch, {"__name__": "sitecustomize"})


class Workers(ForkServerContext):
    """In place of multiprocessing's context "spawn": starts the children of a command as the command was started."""

    def __init__(self, patch: str) -> None:
        super().__init__()
        self._patch = patch

    def Process(  # type: ignore[override]
        self, *, target: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Any = None, **others: Any
    ) -> ForkServerProcess:
        """A process of this command."""
        place = Place(range(3), os.environ, os.getpgrp())
        return ForkServerProcess(target=_worker, args=(place, self._patch, target, args, kwargs or {}), **others)
