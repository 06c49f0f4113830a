"""The MDM protocol of the lab: messages, queues, users, declarations, pushes."""
