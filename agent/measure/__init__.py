"""What a run measured: one record of every operation, and what is made of the records."""
