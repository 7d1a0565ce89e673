"""Patches: parse, plan (pure, in memory), journal, write."""
