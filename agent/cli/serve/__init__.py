"""The command ``lom-agent serve``."""
