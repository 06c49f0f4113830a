"""What is written from a scenario: its reference, a new file, a summary, plain data without secrets."""
