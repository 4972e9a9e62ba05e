"""Speed, measured: each module is a command that prints its figures. No test times anything."""
