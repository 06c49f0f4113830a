"""Defects of the lab's SCEP CA, and of the SCEP payload."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("scep-caps-404", "GetCACaps is answered with 404.", ("MDM-SCEP-01",), identity="scep"),
    Defect("scep-caps-des", "The capabilities name triple DES and SHA-1 only.", ("MDM-SCEP-02",), identity="scep"),
    Defect("scep-cacert-type", "The CA's certificate has another media type.", ("MDM-SCEP-03",), identity="scep"),
    Defect("scep-pki-type", "The answer to PKIOperation has another media type.", ("MDM-SCEP-04",), identity="scep"),
    Defect("scep-challenge-unchecked", "A wrong challenge is accepted.", ("MDM-SCEP-05",), identity="scep"),
    Defect("scep-fingerprint", "CAFingerprint is that of no certificate of the CA.", ("MDM-SCEP-06",), identity="scep"),
    Defect("scep-keysize", "Keysize is 2000.", ("MDM-SCEP-07",), identity="scep"),
)
