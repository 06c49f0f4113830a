"""What the words of a report mean, for a reader who does not know this program."""

from __future__ import annotations

OPERATION_WORDS = {
    "enroll": "a Mac asks for its enrolment profile, until its last check-in was answered",
    "checkin": "one check-in message, until the server answered it with 200",
    "session": "a Mac is woken or looks by itself, until the server's empty answer",
    "command": "a Mac has read a command, until the server took its result",
    "lom_setup": "the server queues LOMSetupRequest, until it has the Mac's lists",
    "lom_device": "the server queues LOMDeviceRequest, until it has the outcome for this Device",
    "lom_link": "a LOM Controller dials an address of a Device, until its answer is read",
    "push": "APNs has the server's push, until the Mac's first byte to the server",
    "enqueue": "one request to the server's API that queues a command, until its answer",
    "delivery": "a command was due to be queued, until the server took its result",
    "return": "a Mac was to come back from a reset or a power cut, until its first session ended in good order",
}

STAGE_WORDS = {
    "connect": "opening a TCP connection",
    "handshake": "a full TLS handshake",
    "handshake_resumed": "a TLS handshake that resumed an earlier one",
    "key": "a Mac's wait for its RSA key, which this program makes",
    "first_byte": "from a request's first byte to the answer's first byte",
    "request": "from a request's first byte to the answer's last byte",
}
