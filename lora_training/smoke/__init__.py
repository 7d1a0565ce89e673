"""A model, tokenizer and images for the smoke run, generated without any download."""
