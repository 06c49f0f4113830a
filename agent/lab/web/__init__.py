"""The lab's web server and its HTTP API."""
