"""Checks before a training starts: what would end it in the middle, or at once, is found now. Prints nothing."""
