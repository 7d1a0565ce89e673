"""Run inside the real upstream: what its log says of the buckets of data sets, and how many tokens captions have."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys

sys.path.insert(0, ".")
out, sys.stdout = sys.stdout, sys.stderr
from library.config_util import (  # noqa: E402 - found in the folder added above
    BlueprintGenerator,
    ConfigSanitizer,
    generate_dataset_group_by_blueprint,
)
from transformers import CLIPTokenizer  # noqa: E402 - imported after upstream, as there

LINE = re.compile(r"bucket \d+: resolution \((\d+), (\d+)\), count: (\d+)")
found: list[list[int]] = []


class Keep(logging.Handler):
    def emit(self, record):
        if match := LINE.search(record.getMessage()):
            found.append([int(part) for part in match.groups()])


logging.getLogger("library.dataset").addHandler(Keep())
asked = json.load(sys.stdin)
answers = []
for document in asked["documents"]:
    found = []
    blueprint = BlueprintGenerator(ConfigSanitizer(True, True, False, True)).generate(document, argparse.Namespace())
    group, _ = generate_dataset_group_by_blueprint(blueprint.dataset_group)
    answers.append([found, len(group)])
clip = CLIPTokenizer.from_pretrained(sys.argv[1])
counts = [len(clip(text).input_ids) - 2 for text in asked["texts"]]
out.write(json.dumps({"buckets": answers, "tokens": counts}))
out.flush()
