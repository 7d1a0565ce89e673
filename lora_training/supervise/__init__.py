"""The child process of a run, and what its output is worth."""
