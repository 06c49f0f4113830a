"""What plays against the server: the stage, its Macs, gateway and raw requests, and the run over all probes."""
