"""The LOM link on the network: Controller and Device, on loopback, on interfaces, in memory, and by hand."""
