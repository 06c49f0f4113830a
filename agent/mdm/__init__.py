"""The MDM protocol as a Mac speaks it: check-in messages, commands, results, error chains, the session machine."""
