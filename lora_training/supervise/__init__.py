"""Runs the training process: attempts, logs, states, the record of a run, and the check of its result."""
