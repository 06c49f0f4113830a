"""FileVault and the firmware password."""
