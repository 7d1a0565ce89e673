"""Build the command, environment and folder of a child process from a configuration. Pure functions."""
