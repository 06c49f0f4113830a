"""The kinds of phases: what a shard's Macs do in each, begun when the schedule says so."""
