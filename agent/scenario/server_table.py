"""The table ``[server]`` of a scenario: the MDM server, and the API by which commands are queued there."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct, field

from agent.settings import Retries, key


class LabPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lab in another process (`lom-agent lab`). Without this table the lab is embedded in the run."""

    url: Annotated[str, key("Its address, such as `https://127.0.0.1:8443`.", example="https://127.0.0.1:8443")]
    token_file: Annotated[str, key("The file with the token of its API.", path=True, example="lab/token")]
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for its API; none: those of `[server]`.", path=True, example=["api-ca.pem"]
        ),
    ] = ()


class NanoMDMPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The API of NanoMDM, through which commands are queued. One of `api_key_env` and `api_key_file` is needed."""

    url: Annotated[
        str, key("The address of its API, such as `https://mdm.example:9000`.", example="https://mdm.example:9000")
    ]
    plain_http: Annotated[
        bool, key("Allow `http://` where the API is not on loopback: the API key then crosses the network unencrypted.")
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
    """The API of MicroMDM, through which commands are queued. One of `api_key_env` and `api_key_file` is needed."""

    url: Annotated[str, key("Its address, such as `https://mdm.example`.", example="https://mdm.example")]
    user: Annotated[str, key("The user of its HTTP basic authentication.")] = "micromdm"
    api_key_env: Annotated[
        str | None, key("The environment variable that holds the API key.", example="MICROMDM_API_KEY")
    ] = None
    api_key_file: Annotated[str | None, key("The file that holds the API key.", path=True, example="micromdm.key")] = (
        None
    )


class WebRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template of an HTTP request, in which `{udid}` and other names are replaced for each Mac."""

    url: Annotated[str, key("The URL, with templates.", example="https://mdm.example/api/devices/{udid}/commands")]
    method: Annotated[Literal["POST", "PUT", "PATCH", "GET", "DELETE"], key("The HTTP method.")] = "POST"
    headers: Annotated[
        dict[str, str],
        key(
            "The headers, values with templates; the Content-Type decides how values are escaped in the body.",
            example={"Content-Type": "application/json", "Authorization": "Bearer {env:MDM_TOKEN}"},
        ),
    ] = field(default_factory=dict)
    body: Annotated[str, key("The body, with templates.", example='{"plist": "{command_base64}"}')] = ""


class PushWebRequest(WebRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template of an HTTP request without a command: `{udid}`, `{token_hex}`, `{push_magic}` and `{env:NAME}`."""

    url: Annotated[str, key("The URL, with templates.", example="https://mdm.example/api/devices/{udid}/push")]
    body: Annotated[str, key("The body, with templates.", example='{"device": "{udid}"}')] = ""


class LOMProfileWebRequest(WebRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template of the request that queues the server's LOM profile for a Mac. Give all three LOM requests, or none.

    `lom-agent conform` uses them, to judge what the server composes. Templates: those of `push`, `{dns_name}` (of its
    identities), `{device}` and `{controller}` (`true` or `false`).
    """

    url: Annotated[str, key("The URL, with templates.", example="https://mdm.example/api/devices/{udid}/lom/profile")]
    body: Annotated[
        str, key("The body, with templates.", example='{"name": "{dns_name}", "controller": {controller}}')
    ] = ""


class LOMSetupWebRequest(WebRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template of the request that queues LOMSetupRequest for a Mac. Templates: those of `push`."""

    url: Annotated[str, key("The URL, with templates.", example="https://mdm.example/api/devices/{udid}/lom/setup")]
    body: Annotated[str, key("The body, with templates.", example='{"device": "{udid}"}')] = ""


class LOMDeviceWebRequest(WebRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template of the request that queues LOMDeviceRequest at a Controller, which is the Mac of the templates.

    Templates: those of `push`, `{action}` (`PowerON`, `PowerOFF` or `Reset`), `{devices}` (the UDIDs of the Devices,
    with commas between them), `{devices_json}` (the same as a JSON array).
    """

    url: Annotated[str, key("The URL, with templates.", example="https://mdm.example/api/devices/{udid}/lom/request")]
    body: Annotated[
        str, key("The body, with templates.", example='{"action": "{action}", "devices": {devices_json}}')
    ] = ""


class WebhookPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any server whose API queues a command with one HTTP request.

    Templates: `{udid}`, `{command_uuid}`, `{request_type}`, `{command_plist}`, `{command_base64}`, `{token_hex}`,
    `{push_magic}`; `{env:NAME}` is an environment variable, for secrets.
    """

    plain_http: Annotated[
        bool, key("Allow `http://` where the API is not on loopback: secrets then cross the network unencrypted.")
    ] = False
    enqueue: Annotated[WebRequest, key("The request that queues a command.")]
    push: Annotated[
        PushWebRequest | None, key("The request that makes the server push; none: queueing a command also pushes.")
    ] = None
    lom_profile: Annotated[
        LOMProfileWebRequest | None,
        key("The request that queues the server's LOM profile."),
    ] = None
    lom_setup: Annotated[LOMSetupWebRequest | None, key("The request that queues LOMSetupRequest.")] = None
    lom_request: Annotated[LOMDeviceWebRequest | None, key("The request that queues LOMDeviceRequest.")] = None
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for its API; none: those of `[server]`.", path=True, example=["api-ca.pem"]
        ),
    ] = ()


class ServerPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The MDM server in which the Macs enroll, and how commands are queued there."""

    adapter: Annotated[
        Literal["lab", "nanomdm", "micromdm", "webhook", "none"],
        key("The API that queues commands: that of the lab, NanoMDM or MicroMDM, a webhook, or none."),
    ] = "lab"
    enroll: Annotated[
        str | None,
        key(
            "Enroll with this enrollment profile, a URL or a file, in the server that issued it. Not for the embedded "
            "lab, which has its own profile.",
            path=True,
            example="https://mdm.example/enroll",
        ),
    ] = None
    enrollment: Annotated[
        Literal["profile", "ade"],
        key(
            "How a Mac gets its enrollment profile: `profile`, with a GET of `enroll`, or `ade`, as in Setup Assistant "
            "(Automated Device Enrollment), with a POST of its signed MachineInfo to `enroll`."
        ),
    ] = "profile"
    device_ca: Annotated[
        str | None,
        key(
            'With `enrollment = "ade"`: the file with the test CA that issues the identities of the Macs, which your '
            "server has to trust in place of Apple's; a new CA is written to it if it does not exist.",
            path=True,
            example="device-ca.pem",
        ),
    ] = None
    await_configuration: Annotated[
        bool,
        key(
            'With `enrollment = "ade"`: the Macs stay in Setup Assistant (`AwaitingConfiguration`) until the server '
            "sends `DeviceConfigured`."
        ),
    ] = True
    identity: Annotated[
        Literal["pkcs12", "scep", "acme"],
        key(
            "How the profile of the embedded lab gives a Mac its identity. The hardware-bound keys of `acme` need "
            "macOS 14: the usual mix is then without older releases, and a `fleet.os` with one is refused. With "
            "another server, `scep` means that its profile uses "
            "SCEP, and RSA keys are generated before the run."
        ),
    ] = "pkcs12"
    keys: Annotated[
        str,
        key(
            "RSA keys for SCEP: `unique`, one per Mac, or `pool:N`, N keys shared by all Macs (faster, less realistic)."
        ),
    ] = "unique"
    ca: Annotated[
        tuple[str, ...],
        key(
            "CA files (PEM or DER) to trust for the server, in addition to those of the system and the profile.",
            path=True,
            example=["ca.pem"],
        ),
    ] = ()
    insecure: Annotated[bool, key("Accept any server certificate. For experiments only.")] = False
    http: Annotated[
        Literal["auto", "1.1"],
        key(
            "The HTTP version of the Macs: `auto`, HTTP/2 if the server chooses it by ALPN and otherwise HTTP/1.1, or "
            "`1.1`, always HTTP/1.1."
        ),
    ] = "auto"
    retries: Annotated[Retries, key("How often a failed enrollment of a Mac is retried.")] = 0
    lab: Annotated[LabPart | None, key("A lab in another process; none: the embedded lab.")] = None
    nanomdm: Annotated[NanoMDMPart | None, key('With `adapter = "nanomdm"`.')] = None
    micromdm: Annotated[MicroMDMPart | None, key('With `adapter = "micromdm"`.')] = None
    webhook: Annotated[WebhookPart | None, key('With `adapter = "webhook"`.')] = None
