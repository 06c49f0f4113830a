"""The lab: a small real MDM server, embedded as the default target of a run."""
