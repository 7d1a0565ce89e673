"""Run inside the real upstream: each script up to its parsing, in a fork of a process that has imported torch.

It prints, for each script given, its options as its own parser has them, or the error that ends it before.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path


class Parses(BaseException):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def stop(parser, *_args, **_kwargs):
    raise Parses(parser)


def options(script: str) -> object:
    path = Path(script).resolve()
    sys.argv, sys.path[:0] = [str(path), "--help"], [str(path.parent)]
    argparse.ArgumentParser.parse_known_args = stop
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Parses as parses:
        return [option for option in parses.parser._option_string_actions if option not in ("-h", "--help")]
    except Exception as exc:  # noqa: BLE001 - whatever a script ends with
        return f"{type(exc).__name__}: {exc}"
    return "no parser"


def forked(script: str) -> object:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(options(script), pipe)
            pipe.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, ".")
    import library.config_util
    import library.sdxl_train_util
    import library.train_util  # noqa: F401 - what nearly all of them import

    out.write(json.dumps({script: forked(f"{script}.py") for script in sys.argv[1:]}))
