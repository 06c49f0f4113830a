"""A small real MDM server, the embedded default: it stands in for the server that is to be tested."""
