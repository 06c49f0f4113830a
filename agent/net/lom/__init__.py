"""The LOM link on the network: both ends, on loopback, on an interface, in memory, and by hand."""
