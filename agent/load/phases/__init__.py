"""The kinds of phases: what the Macs of a shard do in each, at the pace of its schedule."""
