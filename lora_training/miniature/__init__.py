"""Our own small stand-in for sd-scripts. `train_network.py` is run as a script, like upstream's of that name."""
