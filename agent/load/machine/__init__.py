"""The machine that carries a run: its limits, and whether it keeps up."""
