"""What a report is written as: the terminal, JUnit, HTML, Markdown; ``--json`` is the report itself."""
