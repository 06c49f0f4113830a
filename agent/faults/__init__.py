"""Fault injection: rules that say which Macs misbehave, in which operation, in what way, and when. No I/O."""
