"""The push gateway of a run, and the command that makes its CA and a push certificate."""
