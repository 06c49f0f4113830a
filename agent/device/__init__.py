"""One Mac: its enrolment, power and profiles; a command in, a result out. No I/O."""
