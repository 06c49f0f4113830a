"""A Mac as bytes: kept in a file, or packed in memory while it is idle."""
