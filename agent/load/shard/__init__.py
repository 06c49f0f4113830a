"""One shard: its plan, its parts, its phases, its state and its result."""
