"""What a Mac installs: profiles, apps and software updates."""
