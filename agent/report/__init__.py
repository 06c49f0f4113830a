"""Results for people and for programs: the terminal, results.json."""
