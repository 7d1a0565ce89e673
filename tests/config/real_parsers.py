"""Run inside the real upstream: its own parsers, built by importing it.

Without input it prints every script's flags; with `parse`, it reads lines of JSON {"script", "argv"} and answers
each with the parsed values or the parser's error, or {"datasets"} and answers whether upstream's schema takes them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pathlib
import sys


def plain(value):
    return str(value) if isinstance(value, pathlib.Path) else value


def flags(parser):
    """The flags in the terms of `lora config schema --json`, straight from argparse's own actions."""
    actions = {"_StoreAction": "store", "_StoreTrueAction": "store_true"}
    return [
        {
            "name": action.option_strings[0],
            "dest": action.dest,
            "type": action.type.__name__ if action.type else None,
            "default": plain(action.default),
            "choices": list(action.choices) if action.choices else None,
            "nargs": action.nargs,
            "action": actions[type(action).__name__],
            "help": action.help,
            "required": action.required,
            "const": plain(action.const),
        }
        for action in parser._actions
        if action.dest != "help"
    ]


def parse(parser, argv):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return {key: plain(value) for key, value in vars(parser.parse_args(argv)).items()}
    except SystemExit:
        return {"error": said.getvalue()}


def accepted(datasets):
    """Whether upstream's own schema takes a dataset configuration."""
    import voluptuous
    from library.config_util import ConfigSanitizer

    try:
        ConfigSanitizer(True, True, True, True).user_config_validator(datasets)
    except (voluptuous.Invalid, TypeError, AttributeError):
        return False
    return True


if __name__ == "__main__":
    sys.path.insert(0, ".")
    out, sys.stdout = sys.stdout, sys.stderr  # upstream prints while it is imported
    scripts = sorted(path.stem for path in pathlib.Path().glob("*train_network.py"))
    parsers = {name: importlib.import_module(name).setup_parser() for name in scripts}
    if sys.argv[1:] != ["parse"]:
        out.write(json.dumps({name: flags(parser) for name, parser in parsers.items()}))
        sys.exit()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = accepted(asked["datasets"]) if "datasets" in asked else parse(parsers[asked["script"]], asked["argv"])
        out.write(json.dumps(answer) + "\n")
        out.flush()
