"""The page: a local web server that shows runs, and starts and stops them. It derives everything from the records."""
