"""Defects of what follows the answers of Controllers and Devices, and of LOMDeviceRequest."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect(
        "lom-setup-error-ignored",
        "LOMDeviceRequest is queued for a Device that answered LOMSetupRequest with Error.",
        ("LOM-SETUP-19",),
    ),
    Defect("lom-setup-not-now-dropped", "NotNow ends LOMSetupRequest.", ("LOM-SETUP-20",)),
    Defect("lom-version-string", "LOMProtocolVersion is a string.", ("LOM-DEVICE-01", "LOM-DEVICE-04")),
    Defect("lom-request-spelling", "RequestType is LOMDevicerequest.", ("LOM-DEVICE-09",)),
    Defect("lom-item-missing", "A request to several Devices has no item for the last one.", ("LOM-DEVICE-10",)),
    Defect(
        "lom-other-controller",
        "LOMDeviceRequest is queued at the first Device as well as at the Controller.",
        ("LOM-DEVICE-11",),
    ),
    Defect("lom-addresses-old", "The addresses are those of the first answer of the Device.", ("LOM-DEVICE-12",)),
    Defect(
        "lom-example-refused",
        "A result with the keys of the documented example is answered with 500.",
        ("LOM-DEVICE-13",),
    ),
    Defect(
        "lom-example-repeated",
        "A LOMDeviceRequest with such a result is sent once more.",
        ("LOM-DEVICE-13",),
    ),
    Defect(
        "lom-request-error-repeated",
        "A LOMDeviceRequest that was answered with Error is sent once more.",
        ("LOM-DEVICE-14",),
    ),
    Defect(
        "lom-uuid-by-action",
        "DeviceRequestUUID follows from the Device and the action.",
        ("LOM-DEVICE-15",),
    ),
    Defect(
        "lom-queue-lost-when-off",
        "The queue of a Device is emptied when it is powered on.",
        ("LOM-DEVICE-16",),
    ),
)
