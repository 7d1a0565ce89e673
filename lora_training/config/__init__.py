"""One TOML file: load it, check it, turn it into upstream's flags."""
