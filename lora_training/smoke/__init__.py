"""What the smoke run trains on, made here from nothing that must be downloaded: model, tokenizer, images."""
