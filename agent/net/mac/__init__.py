"""One Mac on the network, and the Macs of one process."""
