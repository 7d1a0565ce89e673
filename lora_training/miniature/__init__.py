"""A small stand-in for sd-scripts, for tests and trials. `train_network.py` is run as a script, like upstream's."""
