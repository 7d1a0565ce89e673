"""Pins, and bringing the pinned trees here."""
