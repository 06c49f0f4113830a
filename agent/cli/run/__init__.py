"""The command ``lom-agent run``."""
