"""Makes docs/conformance.md from the tables: ``python -m agent.conform.reference > docs/conformance.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

from agent.conform.probes import probes
from agent.conform.requirements import requirements
from agent.conform.verdicts.requirement import Requirement
from agent.lab.defects import all_defects

_OPENING = """\
# Conformance

`lom-agent conform` checks an MDM server against the requirements of Apple's documents, and of a few RFCs. Simulated
Macs enroll in the server. *Probes*, short sequences of requests, commands and faults, bring about the situation of
each requirement. A failure names its source, what was expected, what was seen, and the exchanges that show it.

```sh
lom-agent conform                                  # checks the embedded lab, as an example
lom-agent conform --enroll https://mdm.example/enroll --ca ca.pem --server nanomdm \\
    --set server.nanomdm.url=http://127.0.0.1:9000 --set server.nanomdm.api_key_env=NANOMDM_API_KEY \\
    --apns 127.0.0.2:443 --apns-tls apns --html conformance.html
```

`--server` says how commands are queued: `lab`, `nanomdm`, `micromdm` and `webhook` as in [servers.md](servers.md),
with `--set` for the keys of `[server]`; `manual` prints what to do in the server's console and waits for Enter;
`none` queues nothing, so requirements that need a command are not tested. Use `--apns` if your server can push to the
APNs gateway ([push.md](push.md)). Without it, a Mac opens a session as soon as something is queued for it.

`--profile` selects the requirements: `lom` (those of lights-out management and of the sessions that it needs), `mdm`,
`macos27`, or `all`. `--only LOM-DEVICE` selects an area and `--only LOM-DEVICE-03` one requirement, in any profile.
`--list` prints them.

A server that keeps its Macs knows those of a seed already in a second run. Use another `--seed` for each run, unless it
lets a known Mac enroll again ([servers.md](servers.md#the-same-seed-twice)).

## Verdicts

| verdict | meaning |
| --- | --- |
| `pass` | the server does what is required, and the recorded messages show it |
| `fail` | the server breaks a *must* |
| `warn` | the server breaks a *should* or a *may* |
| `not applicable` | the requirement needs a capability that, by the capabilities file, the server does not have |
| `not tested` | the recorded messages do not show whether it holds; a reason is given. Never counted as a pass |

Every report has the counts of all five, the version of its schema and of lom-agent, the seed, the time, and the
server's software: that of the header `Server`, or what `--software` says.

| exit status | when |
| --- | --- |
| 0 | no *must* failed, and at least one requirement was judged: neither not tested nor not applicable |
| 1 | a *must* failed, also if one of the next three holds |
| 2 | wrong usage or input, a file could not be written, or no requirement was judged |
| 3 | the server could not be reached, no Mac could enroll, or the server stopped answering |
| 4 | no *must* failed without a waiver, but a requirement that has a waiver failed, as expected, or passed |
| 130, 143, 129 | Ctrl-C, SIGTERM, SIGHUP, also of a trace of such a run; the report has the verdicts so far |
| 130 | also of a trace without its end; the report has the verdicts so far |

A server in which no Mac can enroll gives 3, unless a *must* fails on evidence of its own, such as that of the
enrollment profile or of a TLS handshake: this gives 1, and the report says both. If a file cannot be written at the
end, the others are written, and the status is 2 only in place of 0 and 4.

Some requirements are about the content of a command. If lom-agent wrote the command and the server only queued it,
such a requirement is not tested. It is tested if the server composes the command itself: with `lab` through its API,
with `manual` through your actions in its console, with `webhook` through its three LOM requests
([servers.md](servers.md#webhook)). MicroMDM only encodes the values of its client: the form of its commands is judged,
and what follows the answers, but not the values.

A server may send commands of its own at any time, ask several Devices in one LOMDeviceRequest or in several, and use
PKCS12, SCEP or ACME payloads for LOM identities.

A server *survives* a message if it answers with neither 401 nor 5xx and the Mac is still enrolled, and a broken
connection if the Mac is still enrolled. That is shown by a command that is queued afterwards and that the server sends
to the Mac. An answer 200 to a report does not show it, because a server may answer so to a Mac that it does not know.
Where no command can be queued, such as with `--server none`, these requirements are not tested. The same holds for
those that say that an enrollment must be kept.

A server *refuses* a message if it answers with a status from 400 to 499 or ends the connection. 408, 425, 429, 502, 503
and 504 are no refusal: the server, or a proxy before it, did not process the message, and the requirement is not
tested. Some servers answer 500 to an identity that does not match. This, and any other status of 500 or above, is a
refusal if what comes later shows that the server did not act on the message: the Mac that the message names still gets
a command that is queued for it, and after a TokenUpdate also the server's push, to its own token. Otherwise, and for
Authenticate, it may be an error after the message had its effect, and the requirement is not tested.

The same seed gives the same Macs and the same probes in the same order. Each probe has Macs of its own, and a probe
that fails does not affect the others. What a server answers to a message that it must refuse or survive
is judged only if it accepted an ordinary message of the same Mac before. A server that refuses everything therefore
passes no such requirement, and fails none.

## Capabilities and waivers

`--capabilities FILE` names the capabilities that the server does not have. The requirements that need one of them are
then not applicable; their text below ends with `Capability` and the name:

```toml
[capabilities]
ddm = false
```

`--waivers FILE` lists expected failures. If a requirement that has a waiver passes, the exit status is 4, so that
waivers are removed when they are no longer needed. `until` is the last day on which a waiver holds; without it a
waiver has no end. The day is that on which the run started, in UTC, also if its trace is judged again later. A
waiver for a requirement that is not selected, not applicable or not tested has no effect.
`--write-waivers` prints waivers for the failures of a run.

```toml
[[waiver]]
id = "MDM-SESSION-06"
reason = "NotNow is not offered again before the next push."
issue = "https://mdm.example/issues/12"
until = 2027-03-31
```

## In CI

With the lab of `lom-agent lab --out lab --port 8443` in place of your server:

```sh
export LAB_TOKEN=$(cat lab/token)
lom-agent conform --enroll https://127.0.0.1:8443/enroll --ca lab/ca.pem --server webhook \\
    --set 'server.webhook.enqueue.url=https://127.0.0.1:8443/api/v1/macs/{udid}/commands' \\
    --set 'server.webhook.enqueue.headers={Authorization="Bearer {env:LAB_TOKEN}", Content-Type="application/xml"}' \\
    --set 'server.webhook.enqueue.body={command_plist}' --seed "$(date +%s)" \\
    --junit conformance.xml --html conformance.html --markdown summary.md --trace trace.jsonl
```

Add `--waivers waivers.toml` once you have written one.

`--junit` writes a test case for each requirement, with the exchanges that show a failure, `--json` the whole report in
a versioned schema, `--markdown` a summary for the page of the job, and `--html` a page for people. Keep the trace:
`lom-agent conform --from-trace trace.jsonl` judges it again without the server, for example with other waivers or with
the checks of a later version of lom-agent. Options of a run, such as `--enroll`, `--seed` or `--os`, are then refused.

## The trace

`--trace FILE` writes one JSON object per line. The first has `format`, `version` (1), `seed`, `profile` and the server.
Each of the others is a record with a `type`, a `number` from 1 and the `probe`:

| `type` | what it is |
| --- | --- |
| `mac` | a new Mac of the probe: UDID, macOS, LOM roles, DNS name |
| `exchange` | a request of a Mac and its response, with parsed bodies; of the kind `raw` if the probe itself wrote it |
| `push` | a request to the APNs gateway: topic, expiration, priority, and the gateway's answer |
| `tls` | a TLS handshake by a probe: what it offered, what was agreed on, the server's certificates |
| `note` | what a probe did (`queued`, `refused`), found (`identity`, `LOM identity`, `trust`) or missed (`waited`) |
| `probe` | the end of a probe: `done`, `stopped` or `not run`, with the reason |

The last line, with the `type` `end`, has no `number`: it says how many `records` there are, and which `signal` stopped
the run, if one did.

The trace contains no secrets. Challenges, passwords, private keys, PINs and tokens are replaced by
`{"$redacted": …}`. Of a PKCS12 only the certificates are kept, of a SCEP message only its type and status. A push
token, a PushMagic and a bootstrap token are replaced by fingerprints, equal wherever the value is the same.
Of a header that may hold a secret only the name is kept. Property list data is `{"$data": BASE64}`, a date is
`{"$date": …}`; a key of a body that begins with `$` gets another `$` before it.

The lines after the first may be in any order. A trace in which a number is missing or occurs twice is refused. One
without an `end` was cut off, or an earlier version of lom-agent wrote it. It is judged, but since it cannot be known
what is missing, every report calls it incomplete (`"complete": false`), and the exit status is 130, as of a run that
was stopped.

"""

_END = """\
## How to add a requirement

A requirement has three parts, each in a module named after its area. No list has to be changed:

1. `agent/conform/probes/AREA.py`: a probe that brings about its situation. Its parameter, the `Stage`, gives it new
   Macs, the server's API and raw requests. Skip this if an existing probe does it already.

   ```python
   async def not_now(stage: Stage) -> None:
       mac = await stage.enrolled()
       stage.rule(mac, on="command", do="not_now", times=1)
       await stage.result(await stage.queue(mac, INFORMATION), "NotNow")
       await stage.idle(mac)
       await stage.session(mac)
   ```

2. `agent/conform/requirements/AREA.py`: the `Requirement` and its check, a pure function of the `Evidence`: the records
   of its probes.

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

3. `agent/lab/defects/AREA.py`: a `Defect`, which makes the lab break the requirement, with the ids that then fail.
   The lab tests `if "NAME" in self.defects` where it has the behaviour. `tests/conform/test_defects.py` runs the lab
   with each defect and checks that exactly these ids fail.

The id of a requirement never changes, and the id of a removed one is not used again.

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
