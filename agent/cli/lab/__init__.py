"""The command that runs the embedded MDM server."""
