"""App manifests: which package they name, and the check of its hashes. Source: apple-schema other/manifesturl.yaml."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.errors import PeerError
from agent.mdm.values import dictionary, text_at
from agent.plists import type_name

MAX_HASHES = 10_000  # of the pieces of a package; ours
MAX_TEXT = 4096  # characters of a name or URL; ours
_SOFTWARE = "software"
_PACKAGE = "software-package"


class ManifestMalformed(PeerError):
    """The manifest breaks the format, or the package is not what it says."""

    kind = "app_manifest"


class Package(msgspec.Struct, frozen=True):
    """The package of a manifest, and what the app is called."""

    identifier: str
    version: str
    title: str
    url: str
    hash_name: str
    """``sha256`` or ``md5``; empty where the manifest has no hash."""
    piece: int
    """Bytes of each piece that has a hash; 0: one hash of the whole package."""
    hashes: tuple[str, ...]

    def check(self, octets: bytes) -> None:
        """Raise ManifestMalformed where the downloaded package does not have the hashes."""
        if not self.hash_name:
            return
        size = self.piece or max(1, len(octets))
        starts = range(0, max(1, len(octets)), size)
        if len(starts) != len(self.hashes) or any(
            hashlib.new(self.hash_name, octets[at : at + size], usedforsecurity=False).hexdigest() != expected
            for at, expected in zip(starts, self.hashes, strict=True)
        ):
            raise ManifestMalformed(
                f"expected a package with the {self.hash_name} hashes of the manifest, found another of "
                f"{len(octets)} bytes"
            )


def package_of(manifest: Mapping[str, Any]) -> Package:
    """The package of the first item. Raises ManifestMalformed."""
    item = dictionary(_first(manifest, "items"), "an item of the manifest", ManifestMalformed)
    metadata = dictionary(item.get("metadata"), "metadata of the manifest", ManifestMalformed)
    if metadata.get("kind") != _SOFTWARE:
        raise ManifestMalformed(f"kind of the manifest's metadata: expected {_SOFTWARE}, found another")
    assets = item.get("assets")
    if not isinstance(assets, list):
        raise ManifestMalformed(f"assets of the manifest: expected an array, found {type_name(assets)}")
    asset = next((each for each in assets if isinstance(each, dict) and each.get("kind") == _PACKAGE), None)
    if asset is None:
        raise ManifestMalformed(f"assets of the manifest: expected one of the kind {_PACKAGE}, found none")
    hash_name, piece, hashes = _hashes(asset)
    version = metadata.get("bundle-version", "")
    return Package(
        identifier=text_at(metadata, "bundle-identifier", MAX_TEXT, ManifestMalformed, " of the manifest"),
        version=version[:MAX_TEXT] if isinstance(version, str) else "",
        title=text_at(metadata, "title", MAX_TEXT, ManifestMalformed, " of the manifest"),
        url=text_at(asset, "url", MAX_TEXT, ManifestMalformed, " of the manifest"),
        hash_name=hash_name,
        piece=piece,
        hashes=hashes,
    )


def _hashes(asset: Mapping[str, Any]) -> tuple[str, int, tuple[str, ...]]:
    """The name of the hash, the size of a piece, and the hashes. SHA-256 comes before MD5, one hash before several."""
    for name in ("sha256", "md5"):
        if name in asset:
            return name, 0, (text_at(asset, name, MAX_TEXT, ManifestMalformed, " of the manifest").lower(),)
        several, size = asset.get(f"{name}s"), asset.get(f"{name}-size")
        if several is None and size is None:
            continue
        if not isinstance(several, list) or not all(isinstance(each, str) for each in several):
            raise ManifestMalformed(f"{name}s of the manifest: expected an array of strings")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1 or len(several) > MAX_HASHES:
            reason = f"{name}-size of the manifest: expected a number from 1, and at most {MAX_HASHES} hashes"
            raise ManifestMalformed(reason)
        return name, size, tuple(each.lower() for each in several)
    return "", 0, ()


def _first(manifest: Mapping[str, Any], key: str) -> object:
    items = manifest.get(key)
    if not isinstance(items, list) or not items:
        raise ManifestMalformed(f"{key} of the manifest: expected an array with an item, found {type_name(items)}")
    found: object = items[0]
    return found
