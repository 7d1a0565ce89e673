from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_training.config import document, positions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def paths(data: Any, path: positions.Path = ()) -> set[positions.Path]:
    """Every path of a document, however deep."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return {path, *(p for key, value in items for p in paths(value, (*path, key)))}


def test_keys_headers_and_items_are_placed():
    text = 'a = 1\n[b.c] # x\n"d e" = [1,\n  2]\n  [[f]]\n  g.h = {i = "#=]", j = 2}\n[[f]]\n'
    found = positions.index(text)
    assert found[("a",)] == positions.Position(1, 1)
    assert found[("b",)] == positions.Position(2, 2)
    assert found["b", "c"] == positions.Position(2, 4)
    assert found["b", "c", "d e"] == positions.Position(3, 1)
    assert found["b", "c", "d e", 1] == positions.Position(4, 3)
    assert found["f", 0, "g", "h", "j"] == positions.Position(6, 21)
    assert found["f", 1] == positions.Position(7, 3)


@pytest.mark.parametrize(
    "text",
    [
        "a = '''\n[x]\n''''\nb = 1",
        'a = """\\"""" # """\nb = 1',
        'a = """x""""\nb = 2',
        "a = [ # one\n 1, # two ]\n [2, {b = 3}], ]\nc = []\nd = {}",
        "a.b.c = 1\na.b.d = 2\n[a.e]\nf = 1979-05-27 07:32:00\n[[a.g]]\n[a.g.h]\ni = inf",
        '\'a\' = 1\n"b\\u0041\\t" = 2\n"" = 3',
        "[[a]]\n[[a.b]]\nc = 1\n[[a.b]]\n[a.b.d]\ne = 1\n[[a]]\n[[a.b]]",
        "# only a comment",
        "a = 1 # no newline at the end",
        "a = 1\r\n[b]\r\nc = '''x\r\n'''\r\nd = 2\r\n",
    ],
)
def test_every_path_of_a_document_has_a_place_and_nothing_else_has(text):
    assert set(positions.index(text)) | {()} == paths(tomllib.loads(text))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), NAMES, st.dates(), st.times()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_written_is_read_back_and_placed(data):
    text = document.toml(data)
    assert tomllib.loads(text) == data
    assert set(positions.index(text)) | {()} == paths(data)
