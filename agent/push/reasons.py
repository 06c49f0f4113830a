"""The reasons with which APNs refuses a push, with their HTTP statuses.

Source: Apple, "Handling notification responses from APNs", the table of response error strings.
"""

from __future__ import annotations

from enum import Enum

from agent.errors import PeerError


class Reason(Enum):
    """A reason; its value is the word in the JSON body and the HTTP status."""

    BAD_COLLAPSE_ID = "BadCollapseId", 400
    BAD_DEVICE_TOKEN = "BadDeviceToken", 400
    BAD_EXPIRATION_DATE = "BadExpirationDate", 400
    BAD_MESSAGE_ID = "BadMessageId", 400
    BAD_PRIORITY = "BadPriority", 400
    BAD_TOPIC = "BadTopic", 400
    DEVICE_TOKEN_NOT_FOR_TOPIC = "DeviceTokenNotForTopic", 400
    DUPLICATE_HEADERS = "DuplicateHeaders", 400
    IDLE_TIMEOUT = "IdleTimeout", 400
    INVALID_PUSH_TYPE = "InvalidPushType", 400
    MISSING_DEVICE_TOKEN = "MissingDeviceToken", 400
    MISSING_TOPIC = "MissingTopic", 400
    PAYLOAD_EMPTY = "PayloadEmpty", 400
    TOPIC_DISALLOWED = "TopicDisallowed", 400
    BAD_CERTIFICATE = "BadCertificate", 403
    BAD_CERTIFICATE_ENVIRONMENT = "BadCertificateEnvironment", 403
    EXPIRED_PROVIDER_TOKEN = "ExpiredProviderToken", 403
    FORBIDDEN = "Forbidden", 403
    INVALID_PROVIDER_TOKEN = "InvalidProviderToken", 403
    MISSING_PROVIDER_TOKEN = "MissingProviderToken", 403
    BAD_PATH = "BadPath", 404
    METHOD_NOT_ALLOWED = "MethodNotAllowed", 405
    EXPIRED_TOKEN = "ExpiredToken", 410
    UNREGISTERED = "Unregistered", 410
    PAYLOAD_TOO_LARGE = "PayloadTooLarge", 413
    TOO_MANY_PROVIDER_TOKEN_UPDATES = "TooManyProviderTokenUpdates", 429
    TOO_MANY_REQUESTS = "TooManyRequests", 429
    INTERNAL_SERVER_ERROR = "InternalServerError", 500
    SERVICE_UNAVAILABLE = "ServiceUnavailable", 503
    SHUTDOWN = "Shutdown", 503

    @property
    def word(self) -> str:
        """The word in the answer's JSON."""
        return self.value[0]

    @property
    def status(self) -> int:
        """The answer's HTTP status."""
        return self.value[1]


BY_WORD = {reason.word: reason for reason in Reason}


class OwnCause(Enum):
    """Why the gateway itself refuses a push or a connection, without a fault of the provider and without a rule.

    The value is the key in the results.
    """

    OVERLOADED = "overloaded"  # the process that simulates the Mac did not answer in time, or too many pushes wait
    WORKER_LOST = "worker_lost"  # that process has ended
    SHUTDOWN = "shutdown"  # the gateway was closing
    CONNECTIONS = "connections"  # connections, not pushes: more than the limit


OWN_GATEWAY = "own_gateway"  # the kind of a failure that the gateway of this program caused


class RefusedByOwnGateway(PeerError):
    """A push that is missing, or was late, by the gateway of this program, and not the server under test or a rule."""

    kind = OWN_GATEWAY

    def __init__(self, cause: OwnCause) -> None:
        super().__init__(
            f"lom-agent's own push gateway refused the push or was late, cause {cause.value}: this is no failure of "
            "the server. "
            "Run it again with more cores, more machines or less load."
        )


class PushRefused(PeerError):
    """A push that APNs refuses for ``reason``.

    ``apns_id`` is empty if it is not known. ``timestamp`` is when the token became invalid, in seconds since
    the epoch; None unless the status is 410. ``own`` is the cause where the gateway itself refuses.
    """

    kind = "push_refused"

    def __init__(
        self, reason: Reason, *, apns_id: str = "", timestamp: float | None = None, own: OwnCause | None = None
    ) -> None:
        super().__init__(f"the push was refused: {reason.status} {reason.word}")
        self.reason = reason
        self.apns_id = apns_id
        self.timestamp = timestamp
        self.own = own
