"""The accounts of a Mac, and the channel of the user who is logged in."""
