"""Code that runs inside the training process. It imports nothing heavy before upstream does."""
