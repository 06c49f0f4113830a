"""What a Mac tells of itself: its properties, apps and attestation, and what its macOS supports."""
