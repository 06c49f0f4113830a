"""A process that changes a kept lab until it is killed: it prints the number of each change that was answered.

Its argument is the folder. Change N has N mod 3: a command is queued, another too, the first one is answered.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from lab_messages import UDID, enroll, report

from agent.lab.mdm.core import Lab
from agent.lab.stored.store import LabStore


def main() -> None:
    """Change it."""
    lab = Lab(state=LabStore(Path(sys.argv[1])), kept_results=5)
    identity = enroll(lab)  # with a new identity each time, so that the queue begins empty
    print("ready", flush=True)
    for number in count():
        if number % 3 < 2:
            lab.enqueue(UDID, {"RequestType": "ProfileList"}, command_uuid=str(number))
        else:
            oldest = next(iter(lab.macs[UDID].queue))
            report(lab, identity, Status="Acknowledged", CommandUUID=oldest)
        print(number, flush=True)
