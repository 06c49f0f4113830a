"""Cost of whole runs: ``lom-agent run`` as a process, against nginx with fixed answers.

    python benchmarks/whole_run.py [--fleets 200,3000] [--seconds 6] [--rounds 3] [--only PART]... [--against DIR]

Every Mac enrolls by SCEP with an RSA-2048 key of its own (the CA runs in a process of its own) and signs its messages.
The phases of a run are an open rate at which every Mac rests between two sessions, and a closed loop, each over kept
connections, with a command, and with a new connection for each session. Every Mac opens the connection that it keeps
in a phase before, so that the rows of kept connections have no handshake in them. Between two phases the run is idle;
the CPU time of all its processes is read there, from the kernel's accounting, and divided by the phase's operations.
What the idle time costs is measured too, and subtracted. No cache is filled beforehand. An operation that fails ends
the benchmark.

Memory is that of the workers (PSS), for each Mac more in the larger of two fleets: enrolled, connected, after a second
session on that connection (when the key's copy for TLS is freed), and closed after three sessions. The floors are
measured in the same run: a bare signature, one by a key that was just loaded, and the connections in C (floor.c).

``--against`` is another checkout of the program; its runs and ours take turns, ``--repeat`` times.

Parts: ``sessions``, ``reused`` (signatures are reused for five minutes), ``resumed`` (TLS sessions), ``memory``.
Skipped, with a message, where nginx or a C compiler is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from floor import Floor
from nginx import Server, cores, server, skip_without, write_identity
from process_tree import ROLES, Mark, ProcessTree

from agent import plists
from agent.fleet.population import Population
from agent.lab.defects import Defects
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import CLIENT_USAGE, Authority
from agent.plists import dump_xml
from agent.profiles.making import enrollment_profile, scep_payload

AT_ONCE = 16
REST_SECONDS = 1.2  # of each Mac between two sessions of an open rate, at least: no signature is used again
MOST_PER_SECOND = 150.0  # of an open rate
GAP_SECONDS = 2.0  # between two phases
SETTLED_SECONDS = 1.0  # after the start of a gap
MEMORY_SECONDS = 6.0  # the length of a gap before memory is read: idle Macs are serialised
SIGNATURES = 200
PARTS = ["sessions", "reused", "resumed", "memory"]
REUSE = "[mdm_signature]\nreuse = 300\n"
COMMAND = dump_xml({
    "CommandUUID": "2b9c1a5e-8a53-4f77-9d39-0f4d4fd3b7a1",
    "Command": {"RequestType": "DeviceInformation", "Queries": ["UDID", "DeviceName", "OSVersion", "SerialNumber"]},
})  # fmt: skip
IDLE_LENGTH = len(dump_xml({"Status": "Idle", "UDID": Population("lom-agent", 1)[0].udid}))


@dataclass(frozen=True)
class Phase:
    """One phase of a run. ``row`` is its line in the table, ``path`` what nginx does meanwhile."""

    row: str
    toml: str
    path: str = ""


@dataclass
class Measured:
    """What one run cost: µs of CPU for each operation of a row, by role, of each round; KiB of PSS by moment."""

    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    pss: dict[str, int] = field(default_factory=dict)


@dataclass
class Watch:
    """What the processes of a run had used before and after each phase, and in long gaps."""

    tree: ProcessTree
    before: list[tuple[float, Mark]] = field(default_factory=list)
    after: list[tuple[float, Mark]] = field(default_factory=list)
    pss: dict[str, int] = field(default_factory=dict)
    idle: list[dict[str, float]] = field(default_factory=list)

    def begin(self) -> None:
        """The first phase starts."""
        self.before.append((time.monotonic(), self.tree.mark()))

    def gap(self, phase: Phase, seconds: float) -> None:
        """The gap after this phase has started: read what was used, and wait until shortly before the gap's end."""
        time.sleep(SETTLED_SECONDS)
        began, mark = time.monotonic(), self.tree.mark()
        self.after.append((began, mark))
        rest = seconds - 2 * SETTLED_SECONDS
        if rest > 0:
            time.sleep(rest)
            self.pss[phase.row] = self.tree.pss_kib()
            now = self.tree.mark()
            seconds = time.monotonic() - began
            self.idle.append({role: used / seconds for role, used in now.since(mark).items()})
            mark = now
        self.before.append((time.monotonic(), mark))

    def used(self, number: int, seconds: float) -> dict[str, float]:
        """CPU seconds of each role in phase ``number``, which lasted ``seconds``, without the idle time beside it."""
        (began, before), (ended, after) = self.before[number], self.after[number]
        beside = max(0.0, ended - began - seconds)
        idle = {role: min((each[role] for each in self.idle), default=0.0) for role in ROLES}
        return {role: used - beside * idle[role] for role, used in after.since(before).items()}


def sign(key: rsa.RSAPrivateKey) -> float:
    """µs of CPU of one bare signature by the library of the client."""
    began = time.process_time()
    for _ in range(SIGNATURES):
        key.sign(b"x" * 300, padding.PKCS1v15(), hashes.SHA256())
    return (time.process_time() - began) / SIGNATURES * 1e6


def serve_scep(authorities: Authorities, told: Connection) -> None:
    """The process of the CA: it sends its URL, and accepts any challenge."""
    from agent.cli.reactor import the_reactor
    from agent.lab.mdm.core import Lab
    from agent.lab.web.server import LabServer

    os.sched_setaffinity(0, {cores()[1]})
    reactor = the_reactor()
    defects: Defects = frozenset({"scep-challenge-unchecked"})
    lab = LabServer(reactor, Lab(defects=defects), authorities, scep=True)
    lab.listen()
    told.send(lab.scep_url)
    reactor.run()


@contextmanager
def scep(authorities: Authorities) -> Iterator[str]:
    """The URL of a CA that runs meanwhile."""
    here, there = get_context("fork").Pipe()
    process = get_context("fork").Process(target=serve_scep, args=(authorities, there), daemon=True)
    process.start()
    there.close()  # so that the end of the process is seen
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def closed(row: str, seconds: float, path: str = "") -> Phase:
    """A closed loop."""
    return Phase(row, f'kind = "checkin"\nby = "self"\nconcurrency = {AT_ONCE}\nduration = {seconds}\n', path)


def rested(row: str, macs: int, seconds: float, path: str = "") -> Phase:
    """An open rate."""
    rate = min(macs / REST_SECONDS, MOST_PER_SECOND)
    return Phase(row, f'kind = "checkin"\nby = "self"\nrate = {rate}\nduration = {seconds}\n', path)


def once_each(row: str, path: str = "") -> Phase:
    """One session of each Mac."""
    return Phase(row, f'kind = "checkin"\nby = "self"\nconcurrency = {AT_ONCE}\n', path)


ENROLL = Phase("enrollment by SCEP", f'kind = "enroll"\nconcurrency = {AT_ONCE}\n')
CONNECT = once_each("first session of a kept connection")


def scenario(macs: int, phases: list[tuple[Phase, float]], profile: Path, more: str, load: str) -> str:
    """The scenario of a run: each phase, and an idle time of so many seconds after it."""
    text = [
        f'name = "whole run"\n{more}',
        f'[fleet]\ndevices = {macs}\n[lom]\nnetwork = "memory"\n[load]\nworkers = 1\n{load}',
        f'[server]\nadapter = "none"\nenroll = "{profile}"\nidentity = "scep"\n',
    ]
    for number, (phase, gap) in enumerate(phases):
        text.append(f'[[phase]]\nname = "phase-{number}"\n{phase.toml}')
        text.append(f'[[phase]]\nname = "gap-{number}"\nkind = "idle"\nseconds = {gap}\n')
    return "\n".join(text)


@dataclass(frozen=True)
class Bench:
    """The servers of the benchmark."""

    nginx: Server
    profile: Path
    out: Path
    checkout: str = ""
    """The program's folder, if it is not the one that is installed."""

    def run(self, macs: int, phases: list[tuple[Phase, float]], more: str = "", load: str = "") -> Measured:
        """One run; ``more`` is TOML at the head of the scenario, ``load`` of its table. Raises SystemExit."""
        self._switch(phases[0][0].path)
        file = self.out / "scenario.toml"
        file.write_text(scenario(macs, phases, self.profile, more, load))
        program = Path(sys.executable).with_name("lom-agent")
        environment = {**os.environ, **({"PYTHONPATH": self.checkout} if self.checkout else {})}
        process = subprocess.Popen(
            [program, "run", file, "--out", self.out], stdout=subprocess.PIPE, text=True, env=environment
        )
        watch = Watch(ProcessTree(process.pid))
        printed = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                printed.append(line)
                if " phase-0: started" in line:
                    watch.begin()
                elif " gap-" in line and line.endswith(": started\n"):
                    number = len(watch.after)
                    watch.gap(*phases[number])
                    if number + 1 < len(phases):
                        self._switch(phases[number + 1][0].path)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise SystemExit(f"the run failed:\n{''.join(printed)}")
        return self._measured(watch, [phase for phase, _gap in phases])

    def _switch(self, path: str) -> None:
        for name in ("once", "command"):
            (self.nginx.folder / name).unlink(missing_ok=True)
        if path:
            (self.nginx.folder / path).touch()

    def _measured(self, watch: Watch, phases: list[Phase]) -> Measured:
        results = json.loads((self.out / "results.json").read_text())
        if results["errors"]:
            raise SystemExit(f"expected no error, found {results['errors']}")
        found = Measured(pss=watch.pss)
        for number, phase in enumerate(phases):
            counts: dict[str, Any] = results["phases"][2 * number]
            if counts["failed"] or counts["cut_short"] or not counts["done"]:
                raise SystemExit(f"{phase.row}: expected that every operation succeeds, found {counts}")
            used = watch.used(number, counts["ended_s"] - counts["started_s"])
            each = {role: seconds / counts["done"] * 1e6 for role, seconds in used.items()}
            found.rows.setdefault(phase.row, []).append(each)
        return found


def sessions(bench: Bench, macs: int, seconds: float, rounds: int) -> Measured:
    """Sessions of a fleet over kept and new connections."""
    crowd = f"{macs} Macs"
    phases = [
        once_each(f"first session of a kept connection, {crowd}"),
        rested(f"signed session, kept alive, rested, {crowd}", macs, seconds),
        closed(f"signed session, kept alive, closed loop, {crowd}", seconds),
        closed(f"… with a command, closed loop, {crowd}", seconds, "command"),
        rested(f"new connection and session, rested, {crowd}", macs, seconds, "once"),
        closed(f"new connection and session, closed loop, {crowd}", seconds, "once"),
    ]
    enroll = Phase(f"{ENROLL.row}, {crowd}", ENROLL.toml)
    return bench.run(macs, [(enroll, MEMORY_SECONDS), *((each, GAP_SECONDS) for each in phases * rounds)])


def memory(bench: Bench, macs: int, load: str = "") -> Measured:
    """The workers' memory at the moments of a Mac's life; ``load`` as in ``Bench.run``."""
    phases = [
        (Phase("enrolled", ENROLL.toml), MEMORY_SECONDS),
        (once_each("connected"), MEMORY_SECONDS),
        (once_each("connected, after a second session"), MEMORY_SECONDS),
        (once_each("1", "once"), GAP_SECONDS),
        (once_each("2", "once"), GAP_SECONDS),
        (once_each("closed after three sessions", "once"), MEMORY_SECONDS),
    ]
    return bench.run(macs, phases, load=load)


def show(kinds: dict[str, list[Measured]]) -> None:
    """Print the lowest round of each row, and its parts, for each checkout."""
    rows = list(next(iter(kinds.values()))[0].rows)
    for row in rows:
        for name, runs in kinds.items():
            best = min((each for run in runs for each in run.rows[row]), key=lambda each: sum(each.values()))
            parts = "".join(f"{best[role]:>11.0f}" for role in ROLES)
            print(f"{row + name:<72}{sum(best.values()):>9.0f}{parts}", flush=True)


def show_memory(kinds: dict[str, list[Measured]], more: int) -> None:
    """Print the KiB of each Mac more, for each checkout: ``kinds`` has the small and the large fleet."""
    for name, (small, large) in kinds.items():
        for moment, pss in small.pss.items():
            print(f"{'KiB of PSS for each Mac more: ' + moment + name:<72}{(large.pss[moment] - pss) / more:>9.1f}")


def main() -> None:
    """Run all measurements."""
    skip_without("nginx", "cc")
    parser = argparse.ArgumentParser()
    parser.add_argument("--fleets", default="200,3000")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--against")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # nginx's worker runs as another user
        kept: dict[str, Authority] = {}
        authorities = Authorities(kept)
        with (
            server(folder, COMMAND, IDLE_LENGTH, authority=kept["mdm"], macs=authorities.scep) as nginx,
            scep(authorities) as scep_url,
        ):
            profile = folder / "enroll.mobileconfig"
            identity = scep_payload(authorities, scep_url, "whole-run")
            profile.write_bytes(enrollment_profile(authorities, nginx.url("").rstrip("/"), identity))
            bench = Bench(nginx, profile, folder / "out")
            bench.out.mkdir()
            print(f"{'µs of CPU for each operation, lowest round':<72}{'all':>9}" + "".join(f"{r:>11}" for r in ROLES))
            floors(folder, nginx, authorities)
            benches = {"": bench}
            if options.against:
                benches = {", before": replace(bench, checkout=options.against), ", after": bench}
            measure(benches, options)
            floors(folder, nginx, authorities)


def measure(benches: dict[str, Bench], options: argparse.Namespace) -> None:
    """Measure and print the parts."""
    parts, fleets, rounds = options.only or PARTS, [int(each) for each in options.fleets.split(",")], options.rounds

    def each(run: Callable[[Bench], Measured]) -> dict[str, list[Measured]]:
        found: dict[str, list[Measured]] = {name: [] for name in benches}
        for _ in range(options.repeat):
            for name, bench in benches.items():
                found[name].append(run(bench))
        return found

    for macs in fleets if "sessions" in parts else ():
        show(each(lambda bench, macs=macs: sessions(bench, macs, options.seconds, rounds)))  # type: ignore[misc]
    few = fleets[0]
    if "reused" in parts:
        reused = closed("signed session, kept alive, closed loop, signature reused", options.seconds)
        phases = [(ENROLL, GAP_SECONDS), (CONNECT, GAP_SECONDS), *[(reused, GAP_SECONDS)] * rounds]
        print_of = {name: [bench.run(few, phases, more=REUSE)] for name, bench in benches.items() if not bench.checkout}
        show(print_of)
    if "resumed" in parts:
        resumed = closed("new connection, resumed, and session", options.seconds, "once")
        phases = [(ENROLL, GAP_SECONDS), *[(resumed, GAP_SECONDS)] * (rounds + 1)]
        show(each(lambda bench: bench.run(few, phases, more="[tls]\nresume = 1.0\n")))
    if "memory" in parts:
        sizes = fleets[:2]
        found = {name: [memory(bench, macs) for macs in sizes] for name, bench in benches.items()}
        bench = list(benches.values())[-1]
        found[", load.memory = 0"] = [memory(bench, macs, "memory = 0\n") for macs in sizes]
        show_memory(found, sizes[1] - sizes[0])


def floors(folder: Path, nginx: Server, authorities: Authorities) -> None:
    """Print the floors."""
    for name in ("once", "command"):
        (folder / name).unlink(missing_ok=True)
    floor = Floor(folder)
    key = rsa.generate_private_key(65537, 2048)
    signer = authorities.scep.issue("signer", CLIENT_USAGE, key=key)
    write_identity(folder / "signer.pem", signer)
    (folder / "anchor.pem").write_bytes(authorities.anchor.public_bytes(Encoding.PEM))
    body = plists.dump_xml({"Status": "Idle", "UDID": Population("lom-agent", 1)[0].udid})
    for path in ("mdm", "once"):
        head = f"PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        (folder / f"{path}.request").write_bytes(head.encode() + body)
    exchange = (nginx.port, folder / "anchor.pem", folder / "signer.pem")
    for what, arguments in {
        "floor: bare RSA-2048 signature in C": ("sign", folder / "signer.pem", SIGNATURES),
        "floor: load and first RSA-2048 signature in C": ("first", folder / "signer.pem", SIGNATURES),
        "floor: PUT over kept connections in C": ("keep", *exchange, folder / "mdm.request", AT_ONCE, 1000),
        "floor: new connection and PUT in C": ("connect", *exchange, folder / "once.request", AT_ONCE, 200),
        "floor: new connection, resumed, and PUT in C": ("resume", *exchange, folder / "once.request", 1, 200),
    }.items():
        print(f"{what:<72}{min(floor(*arguments) for _ in range(3)):>9.0f}")
    print(f"{'floor: bare RSA-2048 signature by cryptography':<72}{min(sign(key) for _ in range(3)):>9.0f}", flush=True)


if __name__ == "__main__":
    main()
