"""What becomes of a run when a worker, its machine, its cable, a Dask scheduler or the conductor is lost: a table.

Each machine is a network namespace with an address of its own, so this needs root on Linux. Two workers join a run; in
each row one loss happens at one stage, and the row says how the run ended, what it said, and whether a Mac enrolled
twice, according to the trace. `docs/distributed.md` has the table. ``python tests/losses.py [WORD]`` makes only
the rows whose name has this word.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from threading import Timer

sys.path.insert(0, str(Path(__file__).parent / "support"))

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from forked import SECONDS, Forked
from joined_runs import ended, enrolled, listening_run, worker
from machines import CONDUCTOR, Machines, machines
from started_runs import MACS, SCENARIO, StartedRun, started_run

from agent.pki.issuing.authority import Authority, Usage

PATIENCE = ("--set", "load.worker_timeout=10")
PHASE_SECONDS = 6
SLOW_ENROLLMENT = ("--set", "phase.enroll.rate=1")
NO_END = """
import time
import agent.load.shard.shard
from agent.load.control.messages import TracePiece
async def endless(plan, deliver):
    while True:
        await deliver(TracePiece(b" "))
        time.sleep(0.1)
agent.load.shard.shard.send_trace = endless
"""
STAGES = {"enrolling": "enroll: started", "in sessions": "checkin: started", "delivering": "checkin: finished"}
PORT = 8790
DASK_SECONDS = 30.0


@dataclass
class Party:
    """A run with two workers on three machines, of which the second is lost."""

    machines: Machines
    run: StartedRun
    second: Forked
    again: Callable[[], Forked]
    """Starts the second worker again."""


def kill(party: Party) -> str:
    """Kill the worker."""
    party.second.kill()
    return ""


def stop(party: Party) -> str:
    """Stop the worker for longer than ``load.worker_timeout``; it goes on later."""
    os.kill(party.second.pid, signal.SIGSTOP)
    party.run.wait_for("; lost at ")
    os.kill(party.second.pid, signal.SIGCONT)
    status, _ = ended(party.second)
    return f"the worker, when it went on: {status}"


def cut(party: Party) -> str:
    """Pull the cable."""
    party.machines.cut(1)
    status, _ = ended(party.second)
    return f"the worker: {status}"


def cut_shortly(party: Party) -> str:
    """Pull the cable, and plug it in again after three seconds."""
    party.machines.cut(1)
    time.sleep(3.0)
    party.machines.plug(1)
    return ""


def restart(party: Party) -> str:
    """Kill the worker and start it again, as systemd or Kubernetes does."""
    party.second.kill()
    with party.again() as again:
        status, _ = ended(again)
    return f"the second one: {status}"


def terminate(party: Party) -> str:
    """End the worker with SIGTERM."""
    party.second.send_signal(signal.SIGTERM)
    return ""


def kill_conductor(party: Party) -> str:
    """Kill the conductor."""
    party.run.process.kill()
    status, _ = ended(party.second)
    return f"the worker: {status}"


def slow(party: Party) -> str:
    """Delay every packet to the worker by 100 ms, and lose one in a hundred."""
    works = party.machines.delay(1, "delay", "100ms", "10ms", "loss", "1%")
    return "" if works else "this kernel has no netem: nothing was delayed"


LOSSES = {
    "killed": kill,
    "stopped for good": stop,
    "cable pulled": cut,
    "killed and started again": restart,
}
MORE = {
    "cable pulled for 3 s": cut_shortly,
    "100 ms and 1 % of the packets": slow,
    "SIGTERM": terminate,
    "conductor killed": kill_conductor,
}


def joined(what: str, stage: str, act: Callable[[Party], str], *arguments: str) -> str:
    """One row: a loss in a run that workers join."""
    patch = NO_END if stage == "delivering" else ""
    with TemporaryDirectory() as name, machines(2) as found:
        folder = Path(name)
        one, two = (machine.place.entrance for machine in found.workers)
        place = found.conductor.place.entrance
        options = (*PATIENCE, *SLOW_ENROLLMENT, *arguments)
        with (
            listening_run(folder, PHASE_SECONDS, *options, address=CONDUCTOR, patch=place) as run,
            worker(folder, "--shard", "0", patch=one) as first,
            worker(folder, "--shard", "1", patch=two + patch) as second,
        ):
            run.wait_for(STAGES[stage])
            time.sleep(1.5 if stage != "delivering" else 0.5)
            said = act(Party(found, run, second, lambda: worker(folder, "--shard", "1", patch=two)))
            return row(what, stage, folder, run, f"the other worker: {ended(first)[0]}", said)


def row(what: str, stage: str, folder: Path, run: StartedRun, *said: str) -> str:
    """The row of a run, which is about to end."""
    status: object = "killed"
    with suppress(AssertionError):
        status = run.end()
    because, twice = "no results", "-"
    if (folder / "results.json").exists():
        because = run.results.get("incomplete_because") or "complete"
    with suppress(OSError):
        times = Counter(enrolled(folder))
        twice = f"{sum(count > 1 for count in times.values())} of {MACS}"
    return f"| {what} | {stage} | {status} | {because} | {'; '.join(filter(None, said))} | {twice} |"


def not_all_joined() -> str:
    """A worker is killed before the other has joined."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with listening_run(folder, PHASE_SECONDS, *PATIENCE, "--join-timeout", "20") as run:
            with worker(folder) as only:
                run.wait_for("Worker 0 has joined")
                only.kill()
            run.process.wait(SECONDS)
            return row("killed", "before all have joined", folder, run)


def certificates(folder: Path) -> list[str]:
    """Certificates for Dask's TLS, as options of its commands, and in the environment for its client."""
    authority = Authority.create("CA of the Dask cluster")
    identity = authority.issue("dask", Usage(server_auth=True, client_auth=True), names=["127.0.0.1"])
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pems = {"ca-file": authority.certificate.public_bytes(Encoding.PEM)}
    pems |= {"cert": identity.certificate.public_bytes(Encoding.PEM), "key": key}
    options = []
    for name, pem in pems.items():
        path = folder / f"{name}.pem"
        path.write_bytes(pem)
        options += [f"--tls-{name}", str(path)]
        variable = "CA_FILE" if name == "ca-file" else f"CLIENT__{name.upper()}"
        os.environ[f"DASK_DISTRIBUTED__COMM__TLS__{variable}"] = str(path)
    return options


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[list[Popen[bytes]]]:
    """A scheduler and so many workers with one slot each, over TLS."""
    tls = certificates(folder)
    python = [sys.executable, "-m"]
    scheduler = ["distributed.cli.dask_scheduler", "--protocol", "tls", "--port", str(PORT), "--no-dashboard", *tls]
    member = ["distributed.cli.dask_worker", f"tls://127.0.0.1:{PORT}", "--no-nanny", "--no-dashboard", *tls]
    slot = ["--nthreads", "1", "--resources", "lom-agent=1"]
    started = []
    try:
        for command in [scheduler, *([[*member, *slot]] * workers)]:
            log = (folder / f"dask-{len(started)}.log").open("wb")
            started.append(Popen([*python, *command], stdout=DEVNULL, stderr=log, start_new_session=True))
            log.close()
        time.sleep(DASK_SECONDS)  # until they are registered
        yield started
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def on_dask(what: str, lost: int | None) -> str:
    """One row: the scheduler (0) or a worker of Dask is killed while the Macs are in sessions."""
    with TemporaryDirectory() as name, dask(Path(name), 3) as processes:
        folder = Path(name)
        options = ("--executor", f"dask=tls://127.0.0.1:{PORT}", "--join-timeout", "90", *PATIENCE)
        trace = ("--trace", str(folder / "trace.jsonl"))
        with started_run(folder, PHASE_SECONDS, *options, *trace, scenario=SCENARIO) as run:
            if lost is not None:
                run.wait_for("checkin: started")
                os.kill(processes[lost].pid, signal.SIGKILL)
            return row(what, "in sessions", folder, run)


def rows() -> Iterator[tuple[str, Callable[[], str]]]:
    """The name of each row, and what makes it."""
    yield "not all joined", not_all_joined
    for stage in STAGES:
        for what, act in LOSSES.items():
            yield f"{what} {stage}", partial(joined, what, stage, act)
    for what, act in MORE.items():
        yield what, partial(joined, what, "in sessions", act)
    yield "abort", partial(joined, "killed, --on-loss abort", "in sessions", kill, "--on-loss", "abort")
    for what, lost in (("nothing", None), ("scheduler killed", 0), ("a Dask worker killed", 1)):
        yield f"Dask: {what}", partial(on_dask, f"Dask: {what}", lost)


def main(words: list[str]) -> None:
    """Print the table."""
    print("| lost | when | exit status | what the results say | exit status of | Macs enrolled twice |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, make in rows():
        if words and not any(word in name for word in words):
            continue
        watchdog = Timer(3 * SECONDS, os._exit, (1,))  # a run that hangs is what this looks for
        watchdog.start()
        try:
            print(make(), flush=True)
        except AssertionError as error:
            print(f"| {name} | | did not happen: {str(error)[-400:]!r} | | | |", flush=True)
        finally:
            watchdog.cancel()


if __name__ == "__main__":
    main(sys.argv[1:])
