"""The results of a run, and what shows them: the terminal, HTML, JUnit, the comparison of runs."""
