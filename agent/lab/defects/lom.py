"""Defects of the LOM actions and of the LOM profile."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect(
        "lom-setup-before-profile",
        "LOMSetupRequest is queued for a Mac whose LOM profile is not installed.",
        ("LOM-SETUP-01",),
    ),
    Defect("lom-setup-spelling", "RequestType is LOMSetuprequest.", ("LOM-SETUP-02",)),
    Defect(
        "lom-profile-reference",
        "DeviceCACertificateUUIDs also names a payload that the profile does not contain.",
        ("LOM-SETUP-03",),
    ),
    Defect("lom-key-usage", "LOM identities have the Key Usage digitalSignature alone.", ("LOM-SETUP-04",)),
    Defect("lom-extended-key-usage", "LOM identities have the Extended Key Usage clientAuth alone.", ("LOM-SETUP-05",)),
    Defect("lom-no-alternative-name", "LOM identities have no SubjectAltName.", ("LOM-SETUP-06",)),
    Defect("lom-no-secondary-list", "Items lack SecondaryIPv6AddressList.", ("LOM-DEVICE-01", "LOM-DEVICE-03")),
    Defect("lom-action-spelling", "DeviceRequestType is PowerOn, PowerOff or reset.", ("LOM-DEVICE-02",)),
    Defect("lom-addresses-dropped", "The first primary address of each Device is left out.", ("LOM-DEVICE-03",)),
    Defect("lom-version-fixed", "LOMProtocolVersion is 99, whatever the Device answered.", ("LOM-DEVICE-04",)),
    Defect("lom-name-is-host", "DeviceDNSName is the host name without its domain.", ("LOM-DEVICE-05",)),
    Defect("lom-uuid-reused", "Every item has the same DeviceRequestUUID.", ("LOM-DEVICE-06", "LOM-DEVICE-15")),
    Defect(
        "lom-request-before-setup",
        "LOMDeviceRequest is queued for a Device that has not answered LOMSetupRequest.",
        ("LOM-DEVICE-07",),
    ),
    Defect(
        "lom-partial-repeated",
        "A LOMDeviceRequest of which an item failed is sent once more.",
        ("LOM-DEVICE-08",),
    ),
)
