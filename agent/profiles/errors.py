"""Errors of a profile as a Mac reports them: an ErrorChain, outermost error first."""

from __future__ import annotations

from agent.errors import PeerError
from agent.mdm.results import ChainedError, Domain

# Codes of MCProfileErrorDomain and related domains. Source: Apple's MDM protocol reference.
MALFORMED = 1000
INSTALL_FAILURE = 1009
PAYLOAD_INSTALL_FAILURE = 4001
BAD_PASSWORD = 9000
MALFORMED_CERTIFICATE = 9005
SCEP_NETWORK = 22005
SCEP_BAD_ANSWER = 22013


class ProfileError(PeerError):
    """The Mac refuses a profile. ``chain`` is its ErrorChain."""

    kind = "profile"

    def __init__(self, *chain: ChainedError) -> None:
        super().__init__(": ".join(error.description for error in chain))
        self.chain = chain

    def within(self, outer: ChainedError) -> ProfileError:
        """The same error with ``outer`` added as the outermost error."""
        return type(self)(outer, *self.chain)


class ProfileTimedOut(ProfileError):
    """The identity of a profile could not be obtained within a time limit."""

    timed_out = True


def malformed(description: str) -> ProfileError:
    """The profile is malformed."""
    return ProfileError(ChainedError(Domain.PROFILE, MALFORMED, description))


def bad_certificate(description: str) -> ProfileError:
    """A payload's certificate or identity cannot be read."""
    return ProfileError(ChainedError(Domain.CERTIFICATE, MALFORMED_CERTIFICATE, description))


def bad_password(description: str) -> ProfileError:
    """The payload's Password does not open its PKCS12."""
    return ProfileError(ChainedError(Domain.CERTIFICATE, BAD_PASSWORD, description))


def payload_failed(payload_name: str) -> ChainedError:
    """The outer error of a payload that could not be installed."""
    return ChainedError(
        Domain.INSTALLATION, PAYLOAD_INSTALL_FAILURE, f"the payload “{payload_name}” could not be installed"
    )


def install_failed(profile_name: str) -> ChainedError:
    """The outermost error of a profile that could not be installed."""
    return ChainedError(Domain.PROFILE, INSTALL_FAILURE, f"the profile “{profile_name}” could not be installed")


def scep_failed(error: PeerError, *, network: bool) -> ProfileError:
    """SCEP failed with ``error``: the server was unreachable (``network``), or it did not issue an identity."""
    kind = ProfileTimedOut if error.timed_out else ProfileError
    return kind(ChainedError(Domain.SCEP, SCEP_NETWORK if network else SCEP_BAD_ANSWER, str(error)))


def acme_failed(error: PeerError) -> ProfileError:
    """ACME failed with ``error``: the server was unreachable, or it did not issue an identity.

    Domain and code are our choice: Apple does not document those of ACME.
    """
    kind = ProfileTimedOut if error.timed_out else ProfileError
    return kind(ChainedError(Domain.CERTIFICATE, MALFORMED_CERTIFICATE, str(error)))
