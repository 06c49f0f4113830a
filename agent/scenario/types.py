"""A scenario as types: who the Macs are, which server, what happens when, and what has to hold.

``reading`` makes them from TOML and checks what a type cannot say; ``document`` and ``template`` take the names, the
bounds, the units and the descriptions from here, so that they are written once. Frozen and plain: a scenario crosses
to worker processes as it is. Lengths are in seconds, rates in things a second for the whole fleet.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from agent.scenario.phases import (
    PHASE_KINDS,
    ArrivingPhase,
    CheckinPhase,
    CommandPhase,
    EnrollPhase,
    IdlePhase,
    LOMPhase,
    LOMSetupPhase,
    Phase,
    PhaseBase,
    PowerCutPhase,
)
from agent.scenario.values import Count, Rate, Seconds, Share, SomeSeconds, key

__all__ = [
    "MOST_PHASES",
    "MOST_WORKERS",
    "PHASE_KINDS",
    "ArrivingPhase",
    "CheckinPhase",
    "CommandPhase",
    "EnrollPhase",
    "FleetPart",
    "IdlePhase",
    "LOMPart",
    "LOMPhase",
    "LOMSetupPhase",
    "LabPart",
    "LoadPart",
    "NanoMDMPart",
    "Phase",
    "PhaseBase",
    "PowerCutPhase",
    "PowerPart",
    "PushPart",
    "Scenario",
    "ServerPart",
    "TLSPart",
    "WebRequest",
    "WebhookPart",
]

MOST_WORKERS = 1024
MOST_PHASES = 1000


class PowerPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a LOM request does where Apple does not say."""

    power_off_while_off: Annotated[
        Literal["success", "refuse"], key("PowerOFF to a Mac that is off: it is so already, or an error.")
    ] = "success"
    reset_while_off: Annotated[
        Literal["refuse", "boot"], key("Reset of a Mac that is off: nothing runs that could be reset, or it boots.")
    ] = "refuse"
    power_on_while_booting: Annotated[
        Literal["success", "refuse"], key("PowerON to a Mac that boots: it is on its way, or an error.")
    ] = "success"
    reset_while_booting: Annotated[
        Literal["boot", "success", "refuse"], key("Reset of a Mac that boots: it boots anew, goes on, or an error.")
    ] = "boot"
    power_on_while_on: Annotated[
        Literal["success", "refuse"], key("PowerON to a Mac that runs: without effect, or an error.")
    ] = "success"
    power_on_while_shutting_down: Annotated[
        Literal["boot-after", "success", "refuse"],
        key("PowerON in a shutdown: a boot after it, without effect, or an error."),
    ] = "boot-after"
    power_off_while_shutting_down: Annotated[
        Literal["off", "off-after", "refuse"], key("PowerOFF in a shutdown: off at once, after it, or an error.")
    ] = "off"
    reset_while_shutting_down: Annotated[
        Literal["boot", "boot-after", "refuse"],
        key("Reset in a shutdown: down at once and a boot, a boot after it, or an error."),
    ] = "boot"


class FleetPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who the Macs are, and how they behave where macOS leaves it open."""

    devices: Annotated[Count, key("How many Macs.")] = 100
    seed: Annotated[
        str, key("Everything follows from this text: the Macs, the order in which they come, their arrivals.")
    ] = "lom-agent"
    segment_size: Annotated[Count, key("Macs in a segment (subnet); the first of each is its LOM Controller.")] = 10
    boot: Annotated[
        str, key("How long a boot takes: `constant:N`, `uniform:SHORTEST,LONGEST`, `lognormal:MEDIAN,SIGMA`.", "s")
    ] = "uniform:1,3"
    shutdown: Annotated[str, key("How long an orderly shutdown takes, in the same forms.", "s")] = "uniform:0.2,1"
    not_now: Annotated[Share, key("The probability with which a Mac answers NotNow to a command.")] = 0.0
    not_now_for: Annotated[Seconds, key("Always NotNow for that long from the run's start.", "s")] = 0.0
    not_now_retry: Annotated[SomeSeconds, key("How long after NotNow a Mac asks again by itself.", "s")] = 60.0
    refused_retries: Annotated[
        Annotated[int, Meta(ge=0, le=1000)],
        key("How often a result that the server refuses (4xx) is delivered again; then it is dropped, and an error."),
    ] = 5
    power: Annotated[PowerPart, key("What a LOM request does where Apple does not say.")] = field(
        default_factory=PowerPart
    )


class LabPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lab that runs elsewhere (`lom-agent lab`). Without this table the lab is embedded in the run."""

    url: Annotated[str, key("Where it listens, such as `https://127.0.0.1:8443`.", example="https://127.0.0.1:8443")]
    token_file: Annotated[str, key("The file with the token of its API.", path=True, example="lab/token")]
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for its API; none: those of `[server]`.", path=True, example=["api-ca.pem"]
        ),
    ] = ()


class NanoMDMPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The API of NanoMDM, by which commands are queued. One of `api_key_env` and `api_key_file` is needed."""

    url: Annotated[
        str, key("Where its API listens, such as `https://mdm.example:9000`.", example="https://mdm.example:9000")
    ]
    plain_http: Annotated[
        bool, key("Allow `http://` where the API is not on loopback: it sends the API key over the network as it is.")
    ] = False
    user: Annotated[str, key("The user of its HTTP basic authentication.")] = "nanomdm"
    api_key_env: Annotated[
        str | None, key("The environment variable that holds the API key.", example="NANOMDM_API_KEY")
    ] = None
    api_key_file: Annotated[str | None, key("The file that holds the API key.", path=True, example="nanomdm.key")] = (
        None
    )
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for its API; none: those of `[server]`.", path=True, example=["api-ca.pem"]
        ),
    ] = ()


class MicroMDMPart(NanoMDMPart, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The API of MicroMDM, by which commands are queued. One of `api_key_env` and `api_key_file` is needed."""

    url: Annotated[str, key("Where it listens, such as `https://mdm.example`.", example="https://mdm.example")]
    user: Annotated[str, key("The user of its HTTP basic authentication.")] = "micromdm"
    api_key_env: Annotated[
        str | None, key("The environment variable that holds the API key.", example="MICROMDM_API_KEY")
    ] = None
    api_key_file: Annotated[str | None, key("The file that holds the API key.", path=True, example="micromdm.key")] = (
        None
    )


class WebRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One HTTP request as a template; `{udid}` and the like are filled in for each Mac."""

    url: Annotated[
        str, key("Where it goes, with templates.", example="https://mdm.example/api/devices/{udid}/commands")
    ]
    method: Annotated[Literal["POST", "PUT", "PATCH", "GET", "DELETE"], key("The HTTP method.")] = "POST"
    headers: Annotated[
        dict[str, str],
        key(
            "Its headers, values with templates; the Content-Type says how values are escaped in the body.",
            example={"Content-Type": "application/json", "Authorization": "Bearer {env:MDM_TOKEN}"},
        ),
    ] = field(default_factory=dict)
    body: Annotated[str, key("Its body, with templates.", example='{"plist": "{command_base64}"}')] = ""


class PushWebRequest(WebRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same without a command: `{udid}`, `{token_hex}`, `{push_magic}` and `{env:NAME}`."""

    url: Annotated[str, key("Where it goes, with templates.", example="https://mdm.example/api/devices/{udid}/push")]
    body: Annotated[str, key("Its body, with templates.", example='{"device": "{udid}"}')] = ""


class WebhookPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any server whose API queues a command with one HTTP request.

    Templates: `{udid}`, `{command_uuid}`, `{request_type}`, `{command_plist}`, `{command_base64}`, `{token_hex}`,
    `{push_magic}`; `{env:NAME}` is an environment variable, for what must not stand in a file.
    """

    plain_http: Annotated[
        bool, key("Allow `http://` where the API is not on loopback: it sends secrets over the network as they are.")
    ] = False
    enqueue: Annotated[WebRequest, key("The request that queues a command.")]
    push: Annotated[PushWebRequest | None, key("The request that has the server push; none: queueing pushes, too.")] = (
        None
    )
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for its API; none: those of `[server]`.", path=True, example=["api-ca.pem"]
        ),
    ] = ()


class ServerPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which MDM server the Macs enrol in, and how commands are queued there."""

    adapter: Annotated[
        Literal["lab", "nanomdm", "micromdm", "webhook", "none"],
        key("How to queue commands: the lab's way, NanoMDM's, MicroMDM's, a webhook, or not at all."),
    ] = "lab"
    enroll: Annotated[
        str | None,
        key(
            "The enrolment profile, a URL or a FILE; not for the embedded lab, which has its own.",
            path=True,
            example="https://mdm.example/enroll",
        ),
    ] = None
    identity: Annotated[
        Literal["pkcs12", "scep"],
        key(
            "How the profile of the embedded lab gives a Mac its identity; of another server `scep` says that its "
            "profile does so, and RSA keys are made before the run."
        ),
    ] = "pkcs12"
    keys: Annotated[
        str, key("RSA keys for SCEP: `unique`, one for each Mac, or `pool:N`, N for all (faster, less real).")
    ] = "unique"
    ca: Annotated[
        tuple[str, ...],
        key("CA files (PEM or DER) to trust beside the system's and the profile's.", path=True, example=["ca.pem"]),
    ] = ()
    insecure: Annotated[bool, key("Take any certificate of the server for good. For experiments only.")] = False
    retries: Annotated[
        Annotated[int, Meta(ge=0, le=1000)], key("How often a Mac's failed enrolment is tried again.")
    ] = 0
    lab: Annotated[LabPart | None, key("A lab that runs elsewhere; none: embedded.")] = None
    nanomdm: Annotated[NanoMDMPart | None, key('With `adapter = "nanomdm"`.')] = None
    micromdm: Annotated[MicroMDMPart | None, key('With `adapter = "micromdm"`.')] = None
    webhook: Annotated[WebhookPart | None, key('With `adapter = "webhook"`.')] = None


class TLSPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Macs' TLS towards the server."""

    resume: Annotated[
        Share, key("The share of new connections that offer a session ticket kept from before; else a full handshake.")
    ] = 0.0


class LOMPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What carries the LOM link between Controllers and Devices."""

    network: Annotated[
        str,
        key(
            "`loopback` (TLS on `[::1]`), `memory` (no sockets, for big fleets) or `interface:NAME[,NAME…][:PORT]` "
            "(Linux, root)."
        ),
    ] = "loopback"


class PushPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The APNs gateway, to which the server pushes; docs/push.md says what it does."""

    enabled: Annotated[
        bool | None,
        key("Whether there is one; without it said: with the lab, and where `listen` is given.", example=True),
    ] = None
    listen: Annotated[
        str | None, key("ADDRESS:PORT of the gateway; none: `127.0.0.1:0`, a free port.", example="127.0.0.1:2197")
    ] = None
    tls: Annotated[
        str | None,
        key("The folder of the gateway's CA, `ca.pem` and `ca.key`, made where missing.", path=True, example="apns"),
    ] = None
    cert: Annotated[
        str | None,
        key("The gateway's own certificate (PEM, with its chain), instead of `tls`.", path=True, example="apns.pem"),
    ] = None
    key: Annotated[str | None, key("The key of `cert` (PEM).", path=True, example="apns.key")] = None
    provider_ca: Annotated[
        tuple[str, ...],
        key("Take only push certificates of these CAs; none: any, at its word.", path=True, example=["push-ca.pem"]),
    ] = ()
    strict: Annotated[bool, key("Refuse pushes without `apns-topic` or `apns-push-type: mdm`.")] = False
    delay: Annotated[
        str | None,
        key(
            "How long a push takes, as a distribution like `fleet.boot`; none: no time.",
            "s",
            example="lognormal:0.3,0.5",
        ),
    ] = None
    power_saving: Annotated[Seconds, key("Hold pushes of priority 5 back to windows this far apart; 0: not.", "s")] = (
        0.0
    )
    rules: Annotated[
        tuple[str, ...],
        key(
            'What goes wrong on purpose, such as `"429 share=0.05"` or `"away from=20 for=5"`.',
            example=["429 share=0.05"],
        ),
    ] = ()


class LoadPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Worker processes, and what phases take where they say neither `rate` nor `concurrency` themselves."""

    workers: Annotated[Annotated[int, Meta(ge=0, le=MOST_WORKERS)], key("Worker processes; 0: one a core.")] = 0
    arrivals: Annotated[Literal["constant", "poisson"], key("How phases with a `rate` take it.")] = "constant"
    rate: Annotated[Rate | None, key("Arrivals a second, for the whole fleet.", "1/s", example=20.0)] = None
    concurrency: Annotated[
        Count | None,
        key("So many at a time, the next when one ends (each worker has one at least); instead of `rate`.", example=64),
    ] = None
    tail: Annotated[Seconds, key("How long the run waits at its end for what is under way.", "s")] = 30.0
    worker_timeout: Annotated[
        Annotated[float, Meta(ge=10.0, le=86400.0)],
        key("A worker that says nothing for so long is given up, and the run is incomplete.", "s"),
    ] = 60.0


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole: `name`, `description` and `limits` stand at the top of the file, before the first table."""

    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)], key("What the results and the report call the run.")
    ] = "scenario"
    description: Annotated[
        Annotated[str, Meta(max_length=10_000)],
        key("A sentence for who reads the report.", example="What this run is to show."),
    ] = ""
    limits: Annotated[
        tuple[str, ...],
        key(
            'What has to hold, such as `"session.p99 < 500ms"`; one that does not fails the run.',
            example=["session.p99 < 500ms", "session.errors == 0"],
        ),
    ] = ()
    fleet: Annotated[FleetPart, key("Who the Macs are.")] = field(default_factory=FleetPart)
    server: Annotated[ServerPart, key("Which server.")] = field(default_factory=ServerPart)
    tls: Annotated[TLSPart, key("TLS towards the server.")] = field(default_factory=TLSPart)
    lom: Annotated[LOMPart, key("The LOM network.")] = field(default_factory=LOMPart)
    push: Annotated[PushPart, key("The APNs gateway.")] = field(default_factory=PushPart)
    load: Annotated[LoadPart, key("Workers, and what phases share.")] = field(default_factory=LoadPart)
    phases: Annotated[
        Annotated[tuple[Phase, ...], Meta(max_length=MOST_PHASES)], key("What happens, one after another.")
    ] = field(name="phase", default=())
