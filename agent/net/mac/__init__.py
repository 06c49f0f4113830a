"""One Mac on the network, and the fleet of one process."""
