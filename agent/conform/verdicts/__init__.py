"""From findings to the report: requirements, capabilities, waivers, verdicts, and the report as data. No I/O."""
