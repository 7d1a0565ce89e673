"""The time of `lora config import` and `config check` for the worst files of a megabyte, beside plain parsers.

    python -m benchmarks.importers [--only WORD] [--write FILE]

Each file is of one kind that the commands take, and was made to be slow to read. Beside each is what a parser of
that format alone takes for the same bytes in the same run: Python's `json` and `tomllib`, PyYAML's `safe_load` where it
ends within its time, and `str.split` for a command line. The command is started as a process of its own; the
time of one that does nothing (`lora --version`) is taken off.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
SIZE = 1_000_000
SECONDS = 2.0
_PATIENCE = 20.0
_MEMORY = 2 * 2**30
_MEASURABLE = 0.001
PEERS = {
    ".json": "import json; json.loads(data)",
    ".toml": "import tomllib; tomllib.loads(data.decode())",
    ".yaml": "import yaml; yaml.safe_load(data)",
    ".safetensors": "import json; json.loads(data[8:])",
    ".sh": "data.decode().split()",
}


class Case(NamedTuple):
    """A file to be read, and the command for it."""

    name: str
    suffix: str
    data: bytes
    command: str = "import"


def filled(piece: str, before: str = "", after: str = "") -> bytes:
    """Return `piece` repeated up to a megabyte."""
    return (before + piece * ((SIZE - len(before) - len(after)) // len(piece)) + after).encode()


def numbered(form: str, before: str = "", after: str = "") -> bytes:
    """Return lines of `form` with a number in each, up to a megabyte."""
    count = (SIZE - len(before) - len(after)) // (len(form % 100_000))
    return (before + "".join(form % number for number in range(100_000, 100_000 + count)) + after).encode()


def header(metadata: dict[str, Any]) -> bytes:
    """Return a safetensors file with metadata and no tensors."""
    text = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(text)) + text


def commands() -> Iterator[Case]:
    """Command lines."""
    start = "accelerate launch train_network.py "
    for name, data in {
        "one long word": filled("a"),
        "blanks": filled(" ", start + "a=", "b c"),
        "backslashes and blanks": filled("\\" + " " * 50, start),
        "a quoted word": filled("a", start + '--a "', '"'),
        "a quote that never ends": filled("a\\'", start + '--a "'),
        "comments that are none": filled(" #", start, "'"),
        "slashes": filled("a/_", "", " accelerate launch"),
        "unknown flags": filled("--x7 ", start),
        "different unknown flags": numbered("--x%d ", start),
        "one flag again and again": filled("--seed 1 ", start),
        "a variable in itself": filled("$A ", "A=" + "b" * 1000 + "\n" + start),
        "assignments": numbered("a%d=1\n", "", start),
    }.items():
        yield Case(name, ".sh", data)


def documents() -> Iterator[Case]:
    """kohya_ss's JSON, TOML, and train_LoRA_tool's YAML."""
    gui = '{"LoRA_type": "Standard", '
    yield Case("unknown keys", ".json", numbered('"x%d": 1,', gui, '"y": 1}'))
    yield Case("one long key", ".json", filled("a", gui + '"', '": 1}'))
    yield Case("a long word in a number", ".json", filled("9", gui + '"seed": "', '"}'))
    yield Case("a long command line in a value", ".json", filled("--x ", gui + '"additional_parameters": "', '"}'))
    yield Case("brackets", ".json", filled("[", gui + '"x": '))
    for name, data in {
        "unknown keys": numbered("x%d = 1\n"),
        "one key of many parts": filled("a.", "", "a = 1\n"),
        "keys of some parts": filled("a.b.c.d.e.f.g = 1\n"),
        "tables": numbered("[a%d]\n"),
        "tables in a list": filled("[[datasets]]\n"),
        "a long string": filled("a", 'x = "', '"\n'),
        "a list of words": filled('"a=b",', "network_args = [", '"a=b"]\n'),
    }.items():
        yield Case(name, ".toml", data)
        yield Case(name, ".toml", b'script = "train_network"\n' + data, "check")
    tool = "training: {seed: 1}\nlora: {rank: 4}\n"
    merges = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], b{n}: 1}}\n" for n in range(1, 40))
    for name, data in {
        "merges of merges": f"{tool}a0: &a0 {{b: 1}}\n{merges}".encode(),
        "parts again and again": filled("*a,", f"{tool}a: &a [{'1,' * 1000}]\nb: [", "*a]\n"),
        "unknown keys": numbered("x%d: 1\n", tool),
        "one long key": filled("a", tool + "? ", "\n: 1\n"),
        "a number of sixties": filled(":1", tool + "x: 1", "\n"),
        "long names in each other": numbered("  x%d: 1\n", f"{tool}{'a' * 100_000}:\n"),
        "brackets": filled("[", tool + "x: "),
    }.items():
        yield Case(name, ".yaml", data)


def metadata() -> Iterator[Case]:
    """Trained LoRAs."""
    sizes = {
        "unknown keys": {f"ss_x{number}": "1" for number in range(SIZE // 20)},
        "a key with hash in it": {"ss_" + "hash" * (SIZE // 4) + "-": "1"},
        "a long sum": {"ss_seed": "1+" * (SIZE // 2) + "1"},
        "brackets": {"ss_network_args": "[" * SIZE, "ss_datasets": "[" * 1000},
        "a long number": {"ss_seed": "9" * SIZE, "ss_learning_rate": "0x" + "f" * 100},
        "an optimizer of many arguments": {"ss_optimizer": "A(" + "a=1," * (SIZE // 4) + ")"},
        "many folders": {"ss_dataset_dirs": json.dumps({f"{n}_a": {"n_repeats": 1} for n in range(SIZE // 30)})},
    }
    for name, found in sizes.items():
        yield Case(name, ".safetensors", header(found))


def noise() -> Iterator[Case]:
    """Random bytes."""
    data = random.Random(1).randbytes(SIZE)
    for suffix in PEERS:
        yield Case("noise", suffix, data)


def took(argv: list[str]) -> tuple[float, str]:
    """Run a command with bounded time and memory; return its processor seconds and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    limit = ("prlimit", f"--cpu={_PATIENCE:.0f}", f"--as={_MEMORY}")
    done = subprocess.run([*limit, *argv], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").splitlines() or [f"ended with {done.returncode}"]
    said = next((line for line in lines if line.startswith(("error:", "Traceback"))), lines[-1])
    return seconds, said[:100]


def measure(case: Case, folder: Path, nothing: float) -> str:
    """Return a row of the table."""
    path = folder / f"case{case.suffix}"
    path.write_bytes(case.data)
    seconds, said = took([sys.executable, "-m", "lora_training", "config", case.command, str(path)])
    seconds -= nothing
    peer = "import sys, time\ndata = open(sys.argv[1], 'rb').read()\nbegun = time.process_time()\n"
    peer += f"try:\n    {PEERS[case.suffix]}\nexcept Exception:\n    pass\nprint(time.process_time() - begun)"
    beside, answer = took([sys.executable, "-c", peer, str(path)])
    alone = beside if answer.startswith("ended with") else float(answer)
    ratio = f"{seconds / alone:.1f}" if alone > _MEASURABLE else ""
    mark = "" if seconds <= SECONDS else " **too slow**"
    what = f"{case.command} {case.suffix}: {case.name}"
    return f"| {what} | {seconds:.2f}{mark} | {alone:.3f} | {ratio} | {said.replace('|', '/')} |"


def main() -> None:
    """Measure, and print or write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="those whose name has this word")
    options.add_argument("--write", type=Path, help="a file for the table")
    asked = options.parse_args()
    makers: list[Callable[[], Iterator[Case]]] = [commands, documents, metadata, noise]
    nothing = min(took([sys.executable, "-m", "lora_training", "--version"])[0] for _ in range(3))
    lines = ["| file of 1 MB | s | parser alone, s | ratio | answer |", "| --- | --- | --- | --- | --- |"]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for maker in makers:
            for case in maker():
                if asked.only in f"{case.command} {case.suffix}: {case.name}":
                    lines.append(measure(case, Path(folder), nothing))
                    print(lines[-1], flush=True)
    if asked.write:
        asked.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
