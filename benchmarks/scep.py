"""Cost of an enrollment by SCEP with a new RSA-2048 key, compared to generating the key alone.

    python benchmarks/scep.py [ENROLLMENTS]

The lab, in a process of its own, is the server. Compared is CPU time: of this process and of those that make its keys,
for each enrollment (profile, GetCACaps, GetCACert, PKIOperation, three check-ins with an Mdm-Signature), against that
of processes, one a core, which make as many keys and do nothing else. How long a single key takes is a matter of
luck, so the keys of both are counted in hundreds, and the two take turns. Wall time is reported, too; the server's work
is in it. The CPU time of the lab for each enrollment is a row of its own; so is that of the RSA operations in it which
every SCEP server has: the signatures of the certificate and of the CertRep, and the decryption of the request.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from agent.cli.reactor import the_reactor

reactor = the_reactor()

BITS = 2048
AT_ONCE = 64
ROUNDS = 4
AIM = 1.3
FLOOR_ROUNDS = 50


def make_keys(count: int) -> None:
    """The floor."""
    for _ in range(count):
        rsa.generate_private_key(public_exponent=65537, key_size=BITS)


def floor(count: int) -> tuple[float, float]:
    """Wall and CPU seconds of generating this many keys on all cores, without the start of the processes."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as executor:
        list(executor.map(make_keys, [1] * cores * 2))
        began, cpu = time.monotonic(), _cpu_of_children(executor)
        list(executor.map(make_keys, [1] * count))
        return time.monotonic() - began, _cpu_of_children(executor) - cpu


def _cpu_of_children(executor: ProcessPoolExecutor) -> float:
    return sum(_cpu_of(pid) for pid in executor._processes)


def _cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def floor_of_lab() -> float:
    """CPU seconds of what the lab's key does in an enrollment: two signatures and a decryption, by the same library."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    encrypted = key.public_key().encrypt(b"k" * 16, padding.PKCS1v15())
    began = time.process_time()
    for _ in range(FLOOR_ROUNDS):
        key.sign(b"certificate", padding.PKCS1v15(), hashes.SHA256())
        key.sign(b"CertRep", padding.PKCS1v15(), hashes.SHA256())
        key.decrypt(encrypted, padding.PKCS1v15())
    return (time.process_time() - began) / FLOOR_ROUNDS


def serve() -> None:
    """Run the lab; it prints its URL and ends when its standard input is closed."""
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO

    from agent.lab.mdm.core import Lab
    from agent.lab.web.server import LabServer
    from agent.pki.issuing.authorities import Authorities

    class End(Protocol):
        def connectionLost(self, _reason: object = None) -> None:
            reactor.stop()

    server = LabServer(reactor, Lab(), Authorities(), scep=True)
    server.listen()
    print(server.enrollment_url, flush=True)
    StandardIO(End())  # type: ignore[no-untyped-call]  # of Twisted
    reactor.run()


class Enrollments:
    """The Macs of this process, and their keys."""

    def __init__(self, url: str, count: int) -> None:
        from agent.fleet.population import Population
        from agent.lom.network import AddressBook
        from agent.measure.metrics import Metrics
        from agent.measure.operations import Operations
        from agent.net.lom.memory import MemoryLOMNetwork
        from agent.net.mac.fleet.environment import Environment
        from agent.net.mac.fleet.keys import KeyPool
        from agent.net.mac.fleet.macs import Fleet
        from agent.net.timing import RunClock
        from agent.net.transport.resolver import Resolver
        from agent.net.transport.tls import TLSContexts

        self.url = url
        self.metrics = Metrics()
        clock = RunClock(reactor)
        self.operations = Operations(reactor, self.metrics, started=self.metrics.started, wall_clock=clock)
        self.keys = KeyPool(reactor)
        environment = Environment(
            reactor=reactor,
            clock=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=TLSContexts(),
            network=MemoryLOMNetwork(reactor, AddressBook(), self.operations),
            keys=self.keys,
            operations=self.operations,
            wall_clock=clock,
            insecure=True,
        )
        self.fleet = Fleet(Population("scep", count), environment)
        self.next = 0

    async def enroll(self, count: int) -> tuple[float, float, float]:
        """Enroll this many Macs; returns wall seconds, CPU seconds of this process, and those of the key processes."""
        from agent.load.phases.pace import all_of

        macs = iter(range(self.next, self.next + count))
        self.next += count
        began, own, keys = time.monotonic(), time.process_time(), self._cpu_of_keys()
        self.keys.expect(count, BITS)

        async def one_after_another() -> None:
            for index in macs:
                await self.fleet[index].enroll_at(self.url)

        await all_of(one_after_another() for _ in range(AT_ONCE))
        self.fleet.make_idle(count, count)
        return time.monotonic() - began, time.process_time() - own, self._cpu_of_keys() - keys

    def _cpu_of_keys(self) -> float:
        executor = self.keys._executor
        return 0.0 if executor is None else _cpu_of_children(executor)


async def run(count: int, server: subprocess.Popen[str]) -> None:
    """Measure rounds of both, and print the results."""
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    per_round = max(1, count // ROUNDS)
    enrollments = Enrollments(url, per_round * ROUNDS + 10)
    await enrollments.enroll(10)  # the processes start with the first
    ours, floors = [0.0, 0.0, 0.0], [0.0, 0.0]
    keys_of_lab = 0.0
    of_lab = -_cpu_of(server.pid)
    for _ in range(ROUNDS):
        ours = [sum(pair) for pair in zip(ours, await enrollments.enroll(per_round), strict=True)]
        floors = [sum(pair) for pair in zip(floors, floor(per_round), strict=True)]
        keys_of_lab += floor_of_lab() / ROUNDS
    of_lab += _cpu_of(server.pid)
    enrollments.fleet.close()
    enrollments.keys.close()
    done = per_round * ROUNDS
    wall, own, keys = (1e3 * seconds / done for seconds in ours)
    floor_wall, floor_cpu = (1e3 * seconds / done for seconds in floors)
    ratio = (own + keys) / floor_cpu
    print(
        f"{done} enrollments, RSA-{BITS}, {os.cpu_count()} cores; failures: {enrollments.metrics.failures() or 'none'}"
    )
    print(f"{'ms an enrollment':<46}{'CPU':>8}{'wall':>8}")
    print(f"{'keys alone, on all cores':<46}{floor_cpu:>8.1f}{floor_wall:>8.1f}")
    print(f"{'enrollment: its key, in a process of its own':<46}{keys:>8.1f}")
    print(f"{'enrollment: everything else':<46}{own:>8.2f}")
    print(f"{'the lab, which answers it':<46}{1e3 * of_lab / done:>8.2f}")
    print(f"{'the RSA operations of the key of its CA alone':<46}{1e3 * keys_of_lab:>8.2f}")
    print(f"{'enrollment':<46}{own + keys:>8.1f}{wall:>8.1f}   (wall: the server works on the same cores)")
    print(f"{'reached' if ratio < AIM else 'MISSED'}: {ratio:.3f} times the keys alone, target {AIM}")
    print(f"beside the key itself: {1 + own / keys:.3f} times (luck with the keys taken out)")


def main() -> None:
    """Start the lab and the enrollments."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    command = [sys.executable, __file__, "serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin() -> None:
        done = Deferred.fromCoroutine(run(count, server))
        done.addErrback(_print).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    try:
        reactor.run()
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def _print(failure: Failure) -> None:
    failure.printTraceback(sys.stderr)  # type: ignore[no-untyped-call]  # of Twisted


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
