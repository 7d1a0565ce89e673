"""What runs inside the training process. Imports nothing heavy before upstream does."""
