"""The table ``[server]`` of a scenario: the MDM server, and the API by which commands are queued there."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct, field

from agent.settings import Retries, key


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
    retries: Annotated[Retries, key("How often a Mac's failed enrolment is tried again.")] = 0
    lab: Annotated[LabPart | None, key("A lab that runs elsewhere; none: embedded.")] = None
    nanomdm: Annotated[NanoMDMPart | None, key('With `adapter = "nanomdm"`.')] = None
    micromdm: Annotated[MicroMDMPart | None, key('With `adapter = "micromdm"`.')] = None
    webhook: Annotated[WebhookPart | None, key('With `adapter = "webhook"`.')] = None
