"""What a run records: the records of the trace and their file, who makes them, and how checks read them."""
