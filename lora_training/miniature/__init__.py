"""Our own small stand-in for sd-scripts."""
