"""A Mac and its server: sessions, commands, declarations, and what the Mac does beside a session."""
