"""`lora`: a thin wrapper and patch manager around kohya-ss/sd-scripts."""

__version__ = "0.1.0"
