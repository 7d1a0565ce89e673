"""Measurements, to be run by hand or by `make bench`."""
