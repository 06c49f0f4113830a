"""The Macs of a service: groups, what they share, what is watched and remembered of them."""
