"""The evidence, on the real upstream, that the flags we call inert change nothing, and others do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from lora_training import families
from tests.config.helpers import HERE, needs_torch

pytestmark = pytest.mark.upstream

FLOW = sorted(family.script for family in families.FAMILIES if family.is_flow)
# a value that does something wherever the flag is read
SETTINGS = {
    "noise_offset": 0.1,
    "noise_offset_random_strength": True,
    "adaptive_noise_scale": 0.1,
    "multires_noise_iterations": 6,
    "multires_noise_discount": 0.9,
    "min_snr_gamma": 5.0,
    "debiased_estimation_loss": True,
    "scale_v_pred_loss_like_noise_pred": True,
    "v_pred_like_loss": 0.5,
    "v_parameterization": True,
    "zero_terminal_snr": True,
    "min_timestep": 500,
    "max_timestep": 100,
    "ip_noise_gamma": 0.5,
    "ip_noise_gamma_random_strength": True,
}


@pytest.fixture(scope="module")
def evidence(sd_scripts):
    needs_torch()
    asked = {"changes": dict.fromkeys(FLOW, SETTINGS), "huber": "snr"}
    argv = [sys.executable, str(HERE / "evidence.py")]
    done = subprocess.run(argv, cwd=sd_scripts, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("@@")[2])


@pytest.mark.parametrize("script", FLOW)
def test_a_flag_that_we_call_inert_changes_nothing(evidence, script):
    called = {key for key in SETTINGS if key in families.of(script).inert}
    assert {key: evidence["changes"][script][key] for key in called} == dict.fromkeys(called, False)


@pytest.mark.parametrize("script", FLOW)
def test_a_flag_that_we_do_not_call_inert_there_changes_something(evidence, script):
    lonely = {"ip_noise_gamma_random_strength"}  # it needs ip_noise_gamma
    others = {key for key in SETTINGS if key not in families.of(script).inert} - lonely
    assert {key: evidence["changes"][script][key] for key in others} == dict.fromkeys(others, True)


@pytest.mark.parametrize("script", FLOW)
def test_the_default_huber_schedule_raises_on_every_flow_model(evidence, script):
    assert "not supported with the current model" in evidence["huber"][script]


def test_every_flag_that_we_call_inert_is_shown_to_be(sd_scripts):
    called = {key for family in families.FAMILIES for key in family.inert}
    assert called - set(SETTINGS) == {"fused_backward_pass"}
    for path in sd_scripts.glob("*train_network.py"):
        read = {n.attr for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Attribute)}
        assert "fused_backward_pass" not in read, path.name
