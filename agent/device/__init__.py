"""One Mac: its enrollment, power and profiles; a command in, a result out. No I/O."""
