"""The commands for scenarios, the options made from scenario keys, and the scenario of a run."""
