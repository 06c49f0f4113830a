"""The command ``lom-agent worker``."""
