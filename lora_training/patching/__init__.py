"""Patch source trees: read diffs, plan in memory, write in one transaction."""
