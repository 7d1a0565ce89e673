"""Compare the command line of two checkouts: `python -m tests.blackbox OLD NEW`."""
