"""Load a TOML configuration, check it, and turn it into upstream's flags.

config = load(path)                                # needs no upstream
known = schema.read(tree, config.script)           # asks upstream's own parser, in a child process
require(config, check(config, known))              # raises ConfigError with all problems
argv = to_argv(config, known, dataset_config=...)  # dataset_document(config) is the content of that file
"""
