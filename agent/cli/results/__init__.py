"""The files and the exit status of a run, and the command that reports them."""
