"""Defects of the LOM profile: its payload, whom it trusts, and the identities."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("lom-two-payloads", "The LOM profile has a second com.apple.lom payload.", ("LOM-SETUP-07",)),
    Defect("lom-no-controller-ca", "The LOM payload lacks ControllerCACertificateUUIDs.", ("LOM-SETUP-08",)),
    Defect("lom-no-device-ca", "The LOM payload lacks DeviceCACertificateUUIDs.", ("LOM-SETUP-09",)),
    Defect("lom-identity-type", "DeviceCertificateUUID names the payload of a CA certificate.", ("LOM-SETUP-10",)),
    Defect("lom-ca-type", "DeviceCACertificateUUIDs also names the payload of an identity.", ("LOM-SETUP-11",)),
    Defect("lom-device-ca-other", "DeviceCACertificateUUIDs names the CA of the Controllers.", ("LOM-SETUP-12",)),
    Defect("lom-controller-ca-other", "ControllerCACertificateUUIDs names the CA of the Devices.", ("LOM-SETUP-13",)),
    Defect("lom-names-differ", "Device identities have another dNSName than CommonName.", ("LOM-SETUP-14",)),
    Defect("lom-key-shared", "All Device identities have the same key.", ("LOM-SETUP-15",)),
    Defect("lom-identity-expired", "Device identities expired a day ago.", ("LOM-SETUP-16",)),
    Defect("lom-identity-weak", "Device identities have RSA keys of 1024 bits.", ("LOM-SETUP-17",)),
    Defect("lom-scope-user", "The LOM profile has the PayloadScope User.", ("LOM-SETUP-18",)),
)
