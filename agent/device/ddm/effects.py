"""What configurations do to a Mac: assets are downloaded, legacy profiles installed, software updates enforced.

Source: apple-schema declarative/declarations/configurations/*.yaml, declarative/declarations/assets/data.yaml. Other
configurations are in effect without changing anything that a server sees (docs/modelled.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent.device.ddm.apps import LISTS, install_declared, remove_declared
from agent.device.ddm.declared import Declaration, Reason, as_json, reason, reason_of, sorted_names
from agent.device.ddm.validation import MAX_REASON, asset_references, asset_types
from agent.device.facts.supported import DEVICE_CHANNEL
from agent.device.installing.content_cache import set_content_caching
from agent.device.installing.profiles import install_profile, remove_profile
from agent.device.installing.software_update import DECLARATION, FAILED, Update
from agent.device.installing.updates import cancel_update, is_newer, local_time, release_numbers, start_update
from agent.device.mac import Device
from agent.device.steps import Download, DownloadByMDM, Steps
from agent.errors import CutShort, PeerError
from agent.plists import PlistError
from agent.profiles.errors import ProfileError
from agent.profiles.store import DECLARED_SOURCE

LEGACY = ("com.apple.configuration.legacy", "com.apple.configuration.legacy.interactive")
TEST = "com.apple.configuration.management.test"
CONTENT_CACHE = "com.apple.configuration.content-cache.settings"
SUBSCRIPTIONS = "com.apple.configuration.management.status-subscriptions"
ENFORCEMENT = "com.apple.configuration.softwareupdate.enforcement.specific"
INTERACTIVE = LEGACY[1]

# Credentials whose data is JSON; the others are certificates and data of any kind.
_JSON_CREDENTIALS = frozenset(
    f"com.apple.asset.credential.{name}" for name in ("acme", "identity", "scep", "userpassword")
)


class NotApplied(Exception):
    """A configuration cannot be applied, or an asset not be used; ``reason`` says why."""

    def __init__(self, why: Reason) -> None:
        super().__init__(why.get("description", why["code"]))
        self.reason = why


def apply_configuration(
    device: Device, configuration: Declaration, assets: Mapping[str, Declaration], now: float
) -> Steps[None]:
    """Put a configuration into effect, with those ``assets`` that it needs. What fails is its ``failure``.

    Raises CutShort if the Mac goes down or offline meanwhile: it is then applied later.
    """
    configuration.failure, configuration.notes, configuration.applied = b"", b"", False
    try:
        data = yield from _assets(device, configuration, assets)
        yield from _apply(device, configuration, data, now)
    except NotApplied as error:
        configuration.failure = as_json([error.reason])
    else:
        configuration.applied = True
    configuration.asset_tokens = asset_tokens(configuration, device.mac.os_version, assets)


def withdraw(device: Device, configuration: Declaration) -> None:
    """Undo a configuration that is no longer wanted."""
    _remove_profile(device, configuration.profile)
    remove_declared(device, configuration)
    configuration.profile, configuration.applied, configuration.failure = "", False, b""
    configuration.asset_tokens = {}


def asset_tokens(configuration: Declaration, release: str, assets: Mapping[str, Declaration]) -> dict[str, str]:
    """The ServerToken of each of the ``assets``, by identifier, that a configuration refers to."""
    names = sorted(asset_references(configuration, release))
    return {name: assets[name].server_token for name in names if name in assets}


def subscriptions(wanted: Iterable[Declaration]) -> set[str]:
    """The names of the status items that these configurations subscribe to."""
    return {item["Name"] for each in wanted if each.type == SUBSCRIPTIONS for item in each.payload["StatusItems"]}


def enforce_update(device: Device, wanted: Iterable[Declaration], now: float) -> None:
    """Plan the software update that is to be enforced first; cancel one that no declaration enforces any more.

    The declarations of a user enforce none, and leave that of the device channel alone.
    """
    if device.channel != DEVICE_CHANNEL:
        return
    orders = [order for each in wanted if each.type == ENFORCEMENT and (order := _order(device, each)) is not None]
    first = min(
        (order for order in orders if is_newer(device, order.version)),
        key=lambda order: (order.install_at or 0.0, order.version),
        default=None,
    )
    pending = device.update
    if first is None:
        if pending is not None and pending.reason == DECLARATION:
            cancel_update(device)
    elif pending is None or not _is_order(pending, first):
        start_update(device, first, now)


def _is_order(pending: Update, order: Update) -> bool:
    same = (pending.version, pending.declaration, pending.local_time) == (
        order.version,
        order.declaration,
        order.local_time,
    )
    return same and (pending.state == FAILED or pending.install_at == order.install_at)


def _order(device: Device, configuration: Declaration) -> Update | None:
    payload = configuration.payload
    date = local_time(device, payload["TargetLocalDateTime"])
    if date is None:
        return None
    return Update(
        version=payload["TargetOSVersion"],
        build=payload.get("TargetBuildVersion", ""),
        reason=DECLARATION,
        declaration=configuration.identifier,
        local_time=payload["TargetLocalDateTime"],
        install_at=date,
    )


# Assets.


def _assets(device: Device, configuration: Declaration, present: Mapping[str, Declaration]) -> Steps[dict[str, bytes]]:
    """Download the assets of a configuration; returns their data. Raises NotApplied."""
    names = asset_types(configuration, device.mac.os_version)
    missing = sorted_names(name for name in names if name not in present)
    if missing:
        text = "Configuration ({}) is missing assets."
        raise NotApplied(reason_of(configuration, "Error.MissingAssets", text, AssetIdentifiers=missing))
    needed = {configuration.payload.get(key) for key in ("EchoDataAssetReference", "ProfileAssetReference")}
    found: dict[str, bytes] = {}
    for name in sorted(names):
        asset = present[name]
        if not asset.faults and asset.type not in names[name]:
            expected = " or ".join(sorted(names[name]))
            raise NotApplied(_cannot_be_applied(f"the asset {name} is a {asset.type}, expected a {expected}"))
        asset.applied, asset.failure = False, b""
        try:
            data = yield from _download(device, asset)
            found[name] = data if name in needed else b""  # the others are checked, and have no effect
        except NotApplied as error:
            asset.failure = as_json([error.reason])
            raise NotApplied(_cannot_be_applied(f"the asset {name}: {error}")) from error
        asset.applied = True
    return found


def _download(device: Device, asset: Declaration) -> Steps[bytes]:
    if asset.faults:
        raise NotApplied(_cannot_be_applied("the asset is invalid"))
    reference = asset.payload.get("Reference")
    if reference is None:  # a user identity, which has no data
        return b""
    by_mdm = asset.payload.get("Authentication", {}).get("Type") == "MDM"
    try:
        data = yield from _fetch(device, reference["DataURL"], by_mdm=by_mdm)
    except CutShort:
        raise
    except PeerError as error:
        raise NotApplied(_asset_error("Downloaded", "The asset data cannot be downloaded", str(error))) from error
    wrong = _mismatch(reference, data)
    if wrong:
        raise NotApplied(_asset_error("Verified", "The downloaded asset data cannot be verified", wrong))
    if asset.type in _JSON_CREDENTIALS and not _is_object(data):
        wrong = "expected a JSON object, found something else"
        raise NotApplied(
            _asset_error("Deserialized", "The asset data does not conform to the expected data type", wrong)
        )
    return data


def _mismatch(reference: dict[str, Any], data: bytes) -> str:
    """What the data does not have of its reference; empty if nothing."""
    size, digest = reference.get("Size"), reference.get("Hash-SHA-256", "")
    if size is not None and size != len(data):
        return f"expected {size} bytes, found {len(data)}"
    if size != 0 and digest and digest.lower() != hashlib.sha256(data).hexdigest():
        return f"expected the SHA-256 hash {digest[:80]}, found {hashlib.sha256(data).hexdigest()}"
    return ""


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def _fetch(device: Device, url: str, *, by_mdm: bool) -> Steps[bytes]:
    """GET a file, ``by_mdm`` with the identity of the enrollment. Raises PeerError."""
    enrollment = device.enrollment
    if enrollment is None:
        raise NotApplied(_cannot_be_applied("the Mac is no longer enrolled"))
    answer: bytes | PeerError
    answer = yield DownloadByMDM(url, enrollment) if by_mdm else Download(url, enrollment.anchors)
    if isinstance(answer, PeerError):
        raise answer
    return answer


# Configurations.


def _apply(device: Device, configuration: Declaration, assets: dict[str, bytes], now: float) -> Steps[None]:
    payload = configuration.payload
    if configuration.type in LISTS.values():
        yield from install_declared(device, configuration, now)
    if configuration.type in LEGACY:
        if configuration.type != INTERACTIVE:  # no user is there who may install the other kind
            yield from _install(device, configuration, assets)
    elif configuration.type == CONTENT_CACHE:
        activates, denies = (payload.get(key) is True for key in ("AutoActivation", "DenyActivation"))
        set_content_caching(device, activates=activates, denies=denies)
    elif configuration.type == TEST:
        echo = _echo(payload, assets)
        if payload.get("ReturnStatus") == "Failed":
            raise NotApplied(echo)
        configuration.notes = as_json([echo])
    elif configuration.type == ENFORCEMENT:
        _check_order(device, payload)


def _check_order(device: Device, payload: Mapping[str, Any]) -> None:
    """Check the texts of an enforced update. Raises NotApplied."""
    date, release = payload["TargetLocalDateTime"], payload["TargetOSVersion"]
    if local_time(device, date) is None:
        text = f"TargetLocalDateTime: expected yyyy-mm-ddThh:mm:ss, found {date[:80]}"
    elif not release_numbers(release):
        text = f"TargetOSVersion: expected a version such as 16.1, found {release[:80]}"
    else:
        return
    raise NotApplied(reason("Error.ConfigurationIsInvalid", text, Error=text))


def _echo(payload: Mapping[str, Any], assets: Mapping[str, bytes]) -> Reason:
    """The reason of a test: its code is the text of the configuration, its description that of the asset, if any."""
    data = assets.get(payload.get("EchoDataAssetReference", ""), b"")
    text = data[:MAX_REASON].decode(errors="replace")
    return {"code": payload["Echo"][:MAX_REASON], **({"description": text} if text else {})}


def _install(device: Device, configuration: Declaration, assets: dict[str, bytes]) -> Steps[None]:
    """Install the profile of a legacy configuration; replaces the one that it installed before."""
    payload = configuration.payload
    blob = assets.get(payload.get("ProfileAssetReference", ""))
    before = configuration.profile
    try:
        if blob is None:
            blob = yield from _fetch(device, payload["ProfileURL"], by_mdm=True)
        profile = yield from install_profile(device, blob, DECLARED_SOURCE)
    except CutShort:
        raise
    except (ProfileError, PlistError) as error:
        raise NotApplied(_cannot_be_applied(str(error))) from error
    except PeerError as error:
        raise NotApplied(_cannot_be_applied(f"the profile cannot be downloaded: {error}")) from error
    configuration.profile = profile.identifier
    if before != profile.identifier:
        _remove_profile(device, before)


def _remove_profile(device: Device, identifier: str) -> None:
    if identifier and identifier in device.profiles:
        remove_profile(device, identifier)


def _cannot_be_applied(error: str) -> Reason:
    error = error[:MAX_REASON]
    return reason("Error.ConfigurationCannotBeApplied", f"The configuration cannot be applied: {error}", Error=error)


def _asset_error(what: str, description: str, error: str) -> Reason:
    error = error[:MAX_REASON]
    return reason(f"Error.AssetCannotBe{what}", f"{description}: {error}", Error=error)
