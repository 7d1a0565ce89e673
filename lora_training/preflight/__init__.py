"""Checks before a training starts, for anything that would make it fail later. Prints nothing."""
