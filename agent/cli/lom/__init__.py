"""The commands that run one end of the LOM link, to test the other by hand."""
