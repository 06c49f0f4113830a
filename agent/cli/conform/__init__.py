"""The command ``lom-agent conform``."""
