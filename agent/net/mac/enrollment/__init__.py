"""The enrollment of one Mac, and its identity by SCEP."""
