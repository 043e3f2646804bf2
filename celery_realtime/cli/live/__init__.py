"""The display of ``watch`` on a terminal: lines of jobs that change at its foot, above them what has ended."""
