"""The control link between the conductor and its shards: messages, invitations, the link, what goes over it."""
