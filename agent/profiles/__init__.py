"""Configuration profiles: read, check, install and remove their payloads."""
