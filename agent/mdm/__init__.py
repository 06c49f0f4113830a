"""The MDM protocol of a Mac: check-in messages, commands, results, error chains, the session state machine."""
