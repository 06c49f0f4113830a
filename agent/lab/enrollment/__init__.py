"""Enrollment in the lab: profiles, Automated Device Enrollment, and identities by SCEP and ACME."""
