"""Jobs: which Macs do what and when, and what came of it."""
