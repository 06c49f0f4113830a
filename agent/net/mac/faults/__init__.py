"""What fault rules do to one Mac."""
