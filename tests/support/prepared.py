"""What the fork server has ready besides modules: the page of a run, whose templates take longer to compile than a
short run takes, and the facts that each Mac reads with its first command.

Objects that exist now are left out of garbage collections, which would copy their memory in each process.
"""

from __future__ import annotations

import gc

from agent.mdm.facts import of_kind
from agent.report.html import page

for template in ("report.html", "base.html", "parts.html"):
    page._environment().get_template(template)
for kind in ("command", "payload"):
    of_kind(kind)
gc.freeze()
