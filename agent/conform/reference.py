"""Makes docs/conformance.md from the tables: ``python -m agent.conform.reference > docs/conformance.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

from agent.conform.probes import probes
from agent.conform.requirement import Requirement
from agent.conform.requirements import requirements
from agent.lab.defects import all_defects

_OPENING = """\
# Conformance

`lom-agent conform` checks an MDM server against the requirements of Apple's documents. Macs, made from a seed, enroll
in the server and provoke what each requirement is about; every verdict names the line that is broken and the exchange
that shows it.

```sh
lom-agent conform                                  # the embedded lab, to see how it looks
lom-agent conform --enroll https://mdm.example/enroll --ca ca.pem --server nanomdm \\
    --set server.nanomdm.url=http://127.0.0.1:9000 --set server.nanomdm.api_key_env=NANOMDM_API_KEY \\
    --apns 127.0.0.2:443 --apns-tls apns --html conformance.html
```

`--server` says how commands are queued: `lab`, `nanomdm`, `micromdm` and `webhook` as in [servers.md](servers.md),
with `--set` for the keys of `[server]`; `manual` prints what to do in the server's console and waits for Enter;
`none` queues nothing, so that what needs a command is not tested. With `--apns` the server can push
([push.md](push.md)); without it a Mac opens a session as soon as something is queued for it.

`--profile` selects the requirements: `lom` (those of lights-out management and of the sessions that it needs), `mdm`,
`macos27`, or `all`; `--only LOM-DEVICE` selects an area, `--only LOM-DEVICE-03` one requirement.

## Verdicts

| verdict | meaning |
| --- | --- |
| `pass` | the server does what is required; the trace shows it |
| `fail` | a *must* that the server breaks |
| `warn` | a *should* or *may* that it breaks |
| `not applicable` | the capabilities file says that the server does not have it |
| `not tested` | the trace does not show it; the reason is given. It is never counted as a pass |

Every report has the counts of all five. The exit status is 0 if no *must* failed; 1 if one failed; 2 for wrong usage
or input; 3 if the server could not be reached, no Mac could enroll, or the server stopped answering; 4 if only expected
failures happened, or expected ones did not; 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, which give the
verdicts so far.

The commands that lom-agent itself writes and has queued say nothing about how the server would write them. Such a
requirement is not tested, unless the server composes the command by a LOM action or a renewal of its own, which the
adapters `lab` and `manual` use, and `webhook` with its three LOM requests ([servers.md](servers.md#webhook)). MicroMDM
only encodes the values of its client: the form of the commands is judged, and what follows the answers, not the values.

The same seed provokes the same things in the same order. Each requirement stands alone: its probes have Macs of their
own, and a probe that fails leaves the others alone. What a server answers to a message that it must refuse or survive
is judged only where it accepted an ordinary message of the same Mac before: a server that refuses everything passes no
such requirement, and fails none.

## Capabilities and waivers

`--capabilities FILE` says what the server does not have. What needs it is then not applicable:

```toml
[capabilities]
ddm = false
```

`--waivers FILE` lists expected failures. An expected failure that does not happen fails the run (4), so that a waiver
does not outlive its reason. After `until` a waiver counts no more; neither does one for a requirement that is not
selected, not applicable or not tested. `--write-waivers` prints the entries for the failures of a run.

```toml
[[waiver]]
id = "MDM-SESSION-06"
reason = "NotNow is not offered again before the next push."
issue = "https://mdm.example/issues/12"
until = 2027-03-31
```

## In CI

```sh
lom-agent conform --enroll https://mdm.example/enroll --server webhook --set server.webhook.enqueue.url=… \\
    --waivers waivers.toml --junit conformance.xml --html conformance.html --markdown summary.md --trace trace.jsonl
```

`--junit` has a test for each requirement; `--json` is the whole report with a versioned schema; `--markdown` is a
summary for the page of the job. Keep `--trace`: `lom-agent conform --from-trace trace.jsonl` gives the same verdicts
again, also with other waivers or a later version of lom-agent.

## The trace

`--trace FILE` writes one JSON object a line. The first has `format`, `version` (1), `seed`, `profile` and the server.
Each of the others has a `type`, a `number` from 1 and the `probe`:

| `type` | what it is |
| --- | --- |
| `mac` | a new Mac of the probe: UDID, macOS, LOM roles, DNS name |
| `exchange` | a request of a Mac and its response, with parsed bodies; a probe wrote those of the kind `raw` |
| `push` | a request that the push gateway got: topic, expiration, priority, and its answer |
| `tls` | a TLS handshake that a probe did: what it offered, what was agreed on, the server's certificates |
| `note` | what the probe did (`queued`, `refused`), saw (`identity`, `trust`) or waited for in vain (`waited`) |
| `probe` | the end of a probe: `done`, `stopped` or `not run`, with the reason |

Secrets are not in it: challenges, passwords, private keys, PINs and tokens are replaced by `{"$redacted": …}`, of a
PKCS12 only the certificates are kept, of a SCEP message its type and status, of a header that may hold one its name. A
push token, a PushMagic and a bootstrap token have a fingerprint instead, by which a push can be compared with the
TokenUpdate. Data is `{"$data": BASE64}`, a date `{"$date": …}`; a key of a body that begins with `$` has another `$`
before it.

The lines after the first may be in any order. A trace in which a number is missing or twice is refused. One that ends
early is judged: what its probes did not come to is not tested.

"""

_END = """\
## How to add a requirement

Three places, each a module named after the area; no list has to be changed:

1. `agent/conform/probes/AREA.py`: a probe that provokes it with fresh Macs over the `Stage`, unless one does already:

   ```python
   async def not_now(stage: Stage) -> None:
       mac = await stage.enrolled()
       stage.rule(mac, on="command", do="not_now", times=1)
       await stage.result(await stage.queue(mac, INFORMATION), "NotNow")
       await stage.idle(mac)
       await stage.session(mac)
   ```

2. `agent/conform/requirements/AREA.py`: the `Requirement`, and its check, a pure function over the `Evidence`, which
   is the records of its probes:

   ```python
   def content_type(evidence: Evidence) -> Finding:
       commands = evidence.commands()
       if not commands:
           return not_tested("The server sent no command.")
       for each in commands:
           if each.exchange.content_type not in _XML:
               return failed("a command with the Content-Type application/xml", each.exchange.content_type, each)
       return passed(*commands)
   ```

3. `agent/lab/defects/AREA.py`: a `Defect` that breaks it and the ids that then fail. The lab asks `if "NAME" in
   self.defects` where the behaviour is. `tests/conform/test_defects.py` runs each defect: exactly these ids fail.

An id is never changed and never used again.

## About this page

It is generated: `python -m agent.conform.reference > docs/conformance.md`.
"""


def document() -> str:
    """The whole page, in Markdown."""
    return _OPENING + "".join(_areas()) + "".join(_probes()) + _END


def _areas() -> Iterator[str]:
    defects = {id_: [each.name for each in all_defects() if id_ in each.fails] for id_ in _ids()}
    yield f"## Requirements\n\nThere are {len(requirements())}.\n\n"
    for area, group in groupby(requirements(), key=lambda each: each.area):
        yield f"### {area}\n\n| id | level | requirement | source | profiles | probes | defects of the lab |\n"
        yield "| --- | --- | --- | --- | --- | --- | --- |\n"
        yield from (_row(each, defects[each.id]) for each in group)
        yield "\n"


def _ids() -> list[str]:
    return [each.id for each in requirements()]


def _row(requirement: Requirement, defects: list[str]) -> str:
    says = requirement.says + (f" Capability `{requirement.needs}`." if requirement.needs else "")
    cells = (
        requirement.id,
        requirement.level.value,
        says.replace("|", "\\|"),
        str(requirement.source).replace("|", "\\|"),
        ", ".join(requirement.profiles),
        ", ".join(f"`{each}`" for each in requirement.probes),
        ", ".join(f"`{each}`" for each in defects),
    )
    return f"| {' | '.join(cells)} |\n"


def _probes() -> Iterator[str]:
    yield "## Probes\n\n| probe | what it does |\n| --- | --- |\n"
    yield from (f"| `{each.name}` | {each.does} |\n" for each in probes())
    yield "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
