"""Conformance: whether an MDM server does what Apple's documents require of it (``lom-agent conform``).

From a probe to a verdict:

1. A *probe* (`agent.conform.probes`) plays fresh Macs against the server over a ``Stage`` (`agent.conform.stage`).
2. What was said is the *trace* (`agent.conform.trace`): typed records, made from the exchanges of the Macs and the
   pushes of the gateway, with secrets redacted.
3. A *requirement* (`agent.conform.requirements`) has a check: a pure function over the part of the trace that its
   probes left, which returns a Finding. What the checks of one area share is in `agent.conform.reading`.
4. `agent.conform.verdicts` turns findings, capabilities and waivers into verdicts, `agent.conform.output` writes them.

How to add a requirement: three places, named after its area.

- ``agent/conform/requirements/AREA.py``: an entry in ``REQUIREMENTS``, and its check.
- ``agent/conform/probes/AREA.py``: the probe that provokes it, in ``PROBES``; many requirements share one.
- ``agent/lab/defects/AREA.py``: a defect that breaks the requirement, in ``DEFECTS``, with the ids that must fail; the
  lab asks ``"NAME" in self.defects`` at the place of the behaviour. Then the tests of ``tests/conform`` run it.

Each module in these three folders is found by its name; no list has to be changed. docs/conformance.md is made again by
``python -m agent.conform.reference > docs/conformance.md``.
"""
