"""A fleet's state in a SQLite file, so that its Macs outlive the process: for services and for runs."""
