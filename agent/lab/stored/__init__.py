"""The state of a lab, in memory and in a file."""
