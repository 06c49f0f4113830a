"""One Mac on the network: what it does, in its parts; ``fleet`` are the Macs of one process, and what they share."""
