"""Defects of the enrollment profile. What they change is in `agent.lab.enrollment.profiles`."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("enroll-two-mdm", "The profile has two com.apple.mdm payloads.", ("MDM-ENROLL-01",)),
    Defect("enroll-no-lock-right", "AccessRights lacks 4.", ("MDM-ENROLL-02",)),
    Defect("enroll-rights-invalid", "AccessRights has 2 without 1.", ("MDM-ENROLL-03",)),
    Defect("enroll-http-url", "ServerURL begins with http://.", ("MDM-ENROLL-04",)),
    Defect("enroll-http-checkin", "CheckInURL begins with http://.", ("MDM-ENROLL-05",)),
    Defect("enroll-topic", "Topic does not begin with com.apple.mgmt.", ("MDM-ENROLL-06",)),
    Defect("enroll-identity-reference", "IdentityCertificateUUID names the CA.", ("MDM-ENROLL-07",)),
    Defect(
        "enroll-pinning-reference",
        "CheckInURLPinningCertificateUUIDs names a payload that the profile does not contain.",
        ("MDM-ENROLL-08",),
    ),
    Defect("enroll-no-per-user", "ServerCapabilities lacks per-user-connections.", ("MDM-ENROLL-09",)),
    Defect("enroll-no-bootstrap", "ServerCapabilities lacks bootstraptoken.", ("MDM-ENROLL-10",)),
    Defect("enroll-top-type", "The profile has the PayloadType Profile.", ("MDM-ENROLL-11",)),
    Defect("enroll-payload-keys", "The CA's payload has no PayloadVersion.", ("MDM-ENROLL-12",)),
    Defect("enroll-uuid-twice", "Two payloads have the same PayloadUUID.", ("MDM-ENROLL-13",)),
    Defect("enroll-identifier-twice", "Two payloads have the same PayloadIdentifier.", ("MDM-ENROLL-14",)),
    Defect("enroll-scope-user", "The profile has the PayloadScope User.", ("MDM-ENROLL-15",)),
    Defect("enroll-content-type", "The profile has the Content-Type text/xml.", ("MDM-ENROLL-16",)),
    Defect("enroll-unsigned", "The profile is not signed.", ("MDM-ENROLL-17",)),
    Defect("enroll-sha1", "The profile is signed with SHA-1.", ("MDM-ENROLL-18",)),
    Defect("enroll-pkcs12-password", "The payload has another Password than the PKCS12.", ("MDM-ENROLL-19",)),
    Defect(
        "enroll-server-auth", "MDM identities are for server authentication alone.", ("MDM-CHECKIN-01", "MDM-ENROLL-20")
    ),
    Defect(
        "enroll-shared-identity",
        "Every Mac gets the same MDM identity, so only the first can enroll.",
        ("MDM-CHECKIN-01", "MDM-ENROLL-21"),
    ),
    Defect("enroll-pinning-other", "Another CA is pinned than that of the server.", ("MDM-ENROLL-22",)),
    Defect("enroll-expired", "PayloadExpirationDate is in 2020.", ("MDM-ENROLL-23",)),
    Defect("enroll-no-checkout", "CheckOutWhenRemoved is absent.", ("MDM-ENROLL-24",)),
    Defect("enroll-signature-broken", "The profile is changed after it was signed.", ("MDM-ENROLL-25",)),
    Defect("enroll-capability-twice", "ServerCapabilities has a value twice.", ("MDM-ENROLL-26",)),
    Defect("enroll-key-type", "UseDevelopmentAPNS is a string.", ("MDM-ENROLL-27",)),
    Defect("enroll-identity-expired", "MDM identities expired half an hour ago.", ("MDM-CHECKIN-01", "MDM-ENROLL-28")),
    Defect("enroll-no-ca", "The profile does not contain the CA of the server.", ("MDM-ENROLL-29",)),
    Defect("enroll-user-enrollment", "EnrollmentMode is BYOD.", ("MDM-ENROLL-30",)),
    Defect("enroll-more-payloads", "The profile also has a passcode policy.", ("MDM-ENROLL-31",)),
    Defect("enroll-managed-apple-id", "The MDM payload has ManagedAppleID.", ("MDM-ENROLL-32",)),
)
