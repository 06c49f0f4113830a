"""What checks and probes of one area share: how profiles, LOM commands, SCEP and sessions are read. No I/O."""
