"""Defects of pushes: their form, and what the lab does when APNs refuses one."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("push-never", "CertificateList is queued without a push.", ("MDM-PUSH-01",)),
    Defect("push-magic-old", "A later TokenUpdate does not change the PushMagic.", ("MDM-PUSH-02",)),
    Defect("push-extra-key", "The payload of a push for CertificateList has a key reason.", ("MDM-PUSH-03",)),
    Defect("push-token-old", "A later TokenUpdate does not change the push token.", ("MDM-PUSH-04",)),
    Defect("push-topic-other", "A push for CertificateList has another topic in apns-topic.", ("MDM-PUSH-05",)),
    Defect("push-no-topic", "A push for CertificateList has no apns-topic.", ("MDM-PUSH-06",)),
    Defect("push-type-alert", "A push for CertificateList has the apns-push-type alert.", ("MDM-PUSH-07",)),
    Defect("push-priority-7", "A push for CertificateList has the apns-priority 7.", ("MDM-PUSH-08",)),
    Defect("push-expires-at-once", "A push for CertificateList has the apns-expiration 0.", ("MDM-PUSH-09",)),
    Defect("push-id-invalid", "A push for CertificateList has the apns-id 1.", ("MDM-PUSH-10",)),
    Defect("push-storm", "CertificateList is followed by ten pushes.", ("MDM-PUSH-11",)),
    Defect("push-429-dropped", "After a push is refused with 429 no other is sent to its token.", ("MDM-PUSH-12",)),
    Defect("push-503-dropped", "After a push is refused with 503 no other is sent to its token.", ("MDM-PUSH-13",)),
    Defect(
        "push-broken-dropped",
        "After a push whose connection breaks no other is sent to its token.",
        ("MDM-PUSH-14",),
    ),
    Defect("push-410-again", "Pushes are sent to a token after 410.", ("MDM-PUSH-15",)),
    Defect(
        "push-offline-lost",
        "SecurityInfo replaces the one that is queued before it.",
        ("MDM-PUSH-16",),
    ),
    Defect(
        "push-payload-long", "The payload of a push for CertificateList is padded to 4,097 bytes.", ("MDM-PUSH-17",)
    ),
)
