"""The form of a configuration: it keeps every value, and shows each problem beside its field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_training import tomls
from lora_training.app import drafts
from lora_training.app.checkout import Checkout
from lora_training.config import form
from lora_training.config.argv import REFUSED
from lora_training.config.editing import ConfigText
from tests.helpers import ROOT, write
from tests.ui.conftest import Server, until
from tests.ui.records import png

pytestmark = pytest.mark.upstream
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
ODD = """# kept
script = "sdxl_train_network"  # the script
network_dim = 0
[training]
gradient_checkpointing = false   # a value, not an absence
learning_rate = 1e-4
lr_warmup_steps = "0.05"
seed = 0
max_grad_norm = 0.0
comment = "12"
[network]
network_args = ["a=b", 'c="d"']
[launch]
gpu_ids = [0]
num_processes = "auto"
[[datasets]]
resolution = [512, 768]
[[datasets.subsets]]
image_dir = 'a\\b "c"'
is_reg = false
num_repeats = 0
custom_attributes = {loss_weight = 0, mine = "x"}
"""


@pytest.fixture(autouse=True)
def with_upstream(sd_scripts: Path) -> None:
    """The form comes from the real parser."""


def fields(draft: ConfigText) -> list[tuple[form.Field, Any]]:
    """Each field that a text has a value for, with its place."""
    schema = Checkout(None).schema(draft.script)
    places = dict(draft.flags())
    every = [each for group in form.groups(schema, draft.datasets(), {"ema": False}) for each in group.fields]
    found = [(each, places.get(each.id) if each.id in schema.keys else form.path_of(each.id)) for each in every]
    return [(each, path) for each, path in found if path and draft.shown(path) is not None]


@pytest.mark.parametrize("text", [*(path.read_text(encoding="utf-8") for path in CONFIGS), ODD])
def test_from_toml_to_the_form_and_back_nothing_is_lost(text: str) -> None:
    draft = ConfigText("x", text)
    for field, path in fields(draft):
        draft.set(path, draft.shown(path), is_text=field.is_text)
    assert draft.text == text


def test_a_value_that_is_typed_again_is_the_same_value_of_the_same_type() -> None:
    draft = ConfigText("x", ODD)
    for field, path in fields(draft):
        if path != ("training", "lr_warmup_steps"):
            shown = draft.shown(path)
            draft.set(path, "1234", is_text=field.is_text)
            draft.set(path, shown, is_text=field.is_text)
    assert repr(tomls.loads(draft.text)) == repr(tomls.loads(ODD))
    assert draft.text.count("#") == ODD.count("#")


def test_every_flag_of_every_script_is_in_the_form_once() -> None:
    here = Checkout(None)
    for script in drafts.scripts(here.workspace):
        schema = here.schema(script)
        groups = form.groups(schema, [1], {})
        found = Counter(each.id for group in groups for each in group.fields)
        assert set(found.values()) == {1}
        assert found.keys() >= schema.keys.keys() - REFUSED.keys()


def test_a_flag_goes_beside_those_of_its_kind_and_a_data_set_gets_its_own_loss(at_home: Server) -> None:
    text = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
    inner = "datasets/0/subsets/0/custom_attributes"
    edits = [
        {"id": "lr_scheduler", "text": "cosine"},
        {"id": "max_train_epochs", "text": None},
        {"id": "learning_rate", "text": "0"},
        {"id": f"{inner}/lambda_struct", "text": "0.1"},
        {"id": f"{inner}/loss_weight", "text": "0"},
        {"id": "runtime/dataset-loss/loss_scope", "text": "per_dataset"},
        {"id": "launch/num_processes", "text": "2"},
        {"do": "add", "id": "datasets"},
        {"do": "add", "id": "datasets/1/subsets"},
        {"id": "datasets/1/subsets/0/image_dir", "text": "123"},
        {"id": "output_name", "text": "123"},
        {"id": "seed", "text": None},
    ]
    status, _, found = at_home.ask("/draft", {"name": "x", "text": text, "edits": edits, "shape": ""})
    assert status == 200
    data = tomls.loads(found["text"])
    assert (data["training"]["lr_scheduler"], data["training"]["learning_rate"]) == ("cosine", 0)
    assert "seed" not in data["training"]
    assert data["output"]["output_name"] == "123"
    assert data["datasets"][0]["subsets"][0]["custom_attributes"] == {"lambda_struct": 0.1, "loss_weight": 0}
    assert data["datasets"][1] == {"subsets": [{"image_dir": "123"}]}
    assert (data["runtime"]["dataset-loss"], data["launch"]) == ({"loss_scope": "per_dataset"}, {"num_processes": 2})
    assert "# LoRA+: the up matrices learn four times as fast" in found["text"]
    again = [{"do": "remove", "id": "datasets/1"}]
    found = at_home.ask("/draft", {"name": "x", "text": found["text"], "edits": again, "shape": ""})[2]
    assert len(tomls.loads(found["text"])["datasets"]) == 1


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("not toml", []),
        ("a = [" * 5000, []),
        ('script = "train_network"', [{"id": 3}]),
        ('script = "train_network"', [{"id": "datasets/9/subsets/0/image_dir", "text": "x"}]),
        ('script = "train_network"', [{"do": "remove", "id": "datasets/0"}]),
        ('script = "train_network"\ndatasets = 3', [{"do": "add", "id": "datasets/0/subsets"}]),
    ],
)
def test_a_text_or_an_edit_that_is_none_is_one_sentence(at_home: Server, text: str, edits: list[Any]) -> None:
    status, _, found = at_home.ask("/draft", {"name": "x", "text": text, "edits": edits})
    assert (status, set(found)) == (409, {"error", "hint"})


@pytest.mark.parametrize("text", ["", 'script = "no_such_script"', 'script = "../../x"', "script = 3"])
def test_without_a_script_there_are_findings_and_no_form(at_home: Server, text: str) -> None:
    found = at_home.ask("/draft", {"name": "x", "text": text, "edits": [], "shape": ""})[2]
    assert (found["html"].strip(), found["values"]) == ("", {})
    assert found["problems"]


@pytest.mark.parametrize("name", ["../x", "..%2fx", "a/b", ".hidden", "", "x" * 200, "a%00b", "-rf"])
def test_a_configuration_is_written_by_plain_name_alone(at_home: Server, home: Path, name: str) -> None:
    before = sorted(home.rglob("*.toml"))
    assert at_home.ask(f"/configs/{name}/save", {"text": "", "digest": ""})[0] in (404, 405, 409)
    assert at_home.ask("/train", {"name": name})[0] == 409
    assert sorted(home.rglob("*.toml")) == before


def test_nothing_is_written_over_unasked(at_home: Server, home: Path) -> None:
    path = home / "configs" / "sd15.toml"
    text = path.read_text(encoding="utf-8")
    assert "exists" in at_home.ask("/configs/sd15/save", {"text": "", "digest": ""})[2]["error"]
    digest = drafts._digest(text)
    path.write_text(text + "# by an editor\n", encoding="utf-8")
    status, _, found = at_home.ask("/configs/sd15/save", {"text": "", "digest": digest})
    assert (status, "changed by somebody else" in found["error"]) == (409, True)
    assert path.read_text(encoding="utf-8").endswith("# by an editor\n")
    assert at_home.ask("/configs/odd/save", {"text": "# half a character \ud800", "digest": ""})[0] == 200
    (home / "configs" / "link.toml").symlink_to("/etc/passwd")
    assert at_home.ask("/configs/link/save", {"text": "", "digest": ""})[0] == 409


def test_another_trainers_file_becomes_a_configuration(at_home: Server) -> None:
    gui = {"LoRA_type": "Standard", "pretrained_model_name_or_path": "m.safetensors", "network_dim": 8}
    for name, text in (("gui.json", json.dumps(gui)), ("", json.dumps(gui))):
        status, _, found = at_home.ask("/import", {"name": name, "text": text})
        assert (status, tomls.loads(found["text"])["script"]) == (200, "train_network")
        assert found["report"]
    line = "accelerate launch sdxl_train_network.py --network_dim 8 --learning_rate 1e-4"
    assert "network_dim = 8" in at_home.ask("/import", {"name": "", "text": line})[2]["text"]
    status, _, found = at_home.ask("/import", {"name": "x.json", "text": "{"})
    assert (status, found["error"].partition(":")[0]) == (409, "x.json is not valid JSON")


DATA = """script = "train_network"
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "{}"
caption_extension = ".txt"
"""


def test_the_report_on_a_configuration_s_data_is_shown_with_its_pictures_and_runs_nothing(
    page: Any, at_home: Server, home: Path, tmp_path: Path
) -> None:
    write(tmp_path / "images", {"<script>alert(1).txt": "<script>alert(2)"})
    (tmp_path / "images" / "<script>alert(1).png").write_bytes(png(90, 30, 30, 128))
    write(home / "configs", {"with-data.toml": DATA.format(tmp_path / "images")})
    _, headers, content = at_home.ask("/configs/with-data/data")
    assert headers["content-security-policy"].startswith("default-src 'none'; img-src data:;")
    assert b"1 images, 1 an epoch with repeats" in content
    assert (b"<script" in content, content.count(b"&lt;script&gt;") > 2) == (False, True)
    page.goto(at_home.url("/configs/with-data"))
    with page.expect_popup() as opened:
        page.click("text=Check the data")
    report = opened.value
    assert report.evaluate("document.images[0].naturalWidth") > 0
    assert report.evaluate("getComputedStyle(document.querySelector('figure i')).position") == "absolute"
    write(home / "configs", {"with-data.toml": "script = "})
    status, _, content = at_home.ask("/configs/with-data/data")
    assert (status, b"Traceback" in content, b"with-data.toml" in content) == (409, False, True)
    assert at_home.ask("/configs/no-such/data")[0] == 409


def test_the_form_in_a_browser(page: Any, at_home: Server, home: Path, shoot: Callable[[Any, str], None]) -> None:
    page.goto(at_home.url("/configs"))
    page.get_by_role("button", name="New from a preset").click()
    page.get_by_label("Preset").select_option("smoke")
    page.locator("#new-dialog").get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Open").click()
    ready = page.locator("#form[data-ready]")
    ready.wait_for()
    text = page.locator("#text")
    rate = page.locator('[name="learning_rate"]')
    assert (rate.input_value(), page.locator(".field.set").count() > 20) == ("1e-3", True)
    rate.fill("fast")
    rate.blur()
    page.locator('[id="e-learning_rate"].error').wait_for()
    rate.fill("0")
    rate.blur()
    until(lambda: "learning_rate = 0\n" in text.input_value())
    assert "# LoRA+: the up matrices" in text.input_value()
    text.fill(text.input_value().replace("network_dim = 4", "network_dim = 16\nnetwork_dimm = 3"))
    until(lambda: page.locator('[name="network_dim"]').input_value() == "16")
    page.locator("#findings").get_by_text("network_dimm").first.wait_for()
    right = text.input_value().replace("network_dimm = 3\n", "")
    text.fill(right.replace("learning_rate = 0\n", "learning_rate = 1e-3\n"))
    page.locator("#findings").wait_for(state="hidden")
    page.get_by_label("Search").fill("min_snr")
    until(lambda: page.locator(".field:visible").count() < 5)
    assert page.locator('[name="min_snr_gamma"]').is_visible()
    page.get_by_label("Search").fill("")
    page.get_by_label("only what is set").check()
    assert not page.locator('[name="min_snr_gamma"]').is_visible()
    page.get_by_label("only what is set").uncheck()
    page.get_by_role("button", name="Add a data set").click()
    page.get_by_text("Data set 2").wait_for()
    shoot(page, "form")
    page.get_by_role("button", name="Remove").last.click()
    page.get_by_text("Data set 2").wait_for(state="detached")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("mine.toml saved").wait_for()
    saved = (home / "configs" / "mine.toml").read_text(encoding="utf-8")
    preset = (home / "configs" / "smoke.toml").read_text(encoding="utf-8")
    assert saved == preset.replace("dim = 4", "dim = 16").replace('output_name = "smoke"', 'output_name = "mine"')
    page.on("dialog", lambda dialog: dialog.accept("mine-2"))
    page.get_by_role("button", name="Save as…").click()
    page.get_by_role("heading", name="mine-2").wait_for()
    assert (home / "configs" / "mine-2.toml").read_text(encoding="utf-8") == saved.replace('"mine"', '"mine-2"')
    page.goto(at_home.url("/configs"))
    shoot(page, "configurations")


def test_what_is_saved_has_the_edit_that_is_still_on_its_way(page: Any, at_home: Server, home: Path) -> None:
    text = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
    write(home / "configs", {"edited.toml": text})
    page.goto(at_home.url("/configs/edited"))
    page.locator("#form[data-ready]").wait_for()
    asked: list[Any] = []
    page.route("**/draft", lambda route, _request: asked.append(route))
    page.locator('[name="learning_rate"]').fill("5e-4")
    page.get_by_role("button", name="Save", exact=True).click()
    until(lambda: page.title() and asked)
    asked[0].continue_()
    page.get_by_text("edited.toml saved").wait_for()
    saved = (home / "configs" / "edited.toml").read_text(encoding="utf-8")
    assert saved == text.replace("learning_rate = 1e-3", "learning_rate = 5e-4")
