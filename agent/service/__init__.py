"""Services beside a run: the Prometheus endpoint."""
