"""Every family through the command line, each with the tiny model of its smoke configuration.

`make test` runs the smoke run of all, and the rest for SDXL, FLUX and one more; `make test-families` runs everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lora_training import families
from lora_training.app import start_checks
from lora_training.app.checkout import Checkout
from lora_training.preflight import sizes
from tests.families import drill, pipelines
from tests.helpers import ROOT, lora

pytestmark = pytest.mark.upstream
STEPS = 10
RUNTIME = ("ema", "dataset-loss", "safe-clip", "nan-guard", "atomic-cache")
PATCHED = (
    *(f"runtime.{name}=true" for name in RUNTIME),
    "datasets.0.subsets.0.custom_attributes={loss_weight = 0.5, lambda_struct = 0.1}",
    "max_train_steps=4",
    "cache_latents=true",
    "cache_latents_to_disk=true",
)


@pytest.fixture(scope="class")
def whole(
    request: pytest.FixtureRequest, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> drill.Trained:
    """The smoke run of the class's family."""
    name = request.cls.name
    return drill.train(drill.configuration(name), tmp_path_factory.mktemp(name), env)


class Family:
    """The tests of one family. `modules`: how many its LoRA has, by the part of the model."""

    name: ClassVar[str]
    modules: ClassVar[dict[str, int]]
    pipeline: ClassVar[Callable[[], Any] | None] = None
    processes: ClassVar[int] = 1

    def test_its_smoke_run_ends_with_a_checked_lora_of_these_parts(self, whole: drill.Trained) -> None:
        assert whole.ran.code == 0, whole.ran.err
        assert f"steps     {STEPS}" in whole.ran.out
        steps = [event["step"] for event in whole.events if event["event"] == "step"]
        assert steps == list(range(1, STEPS + 1))
        assert [event["event"] for event in whole.events][-2:] == ["end", "closed"]
        assert Counter("_".join(key.split("_")[:2]) for key in whole.modules) == self.modules

    def test_the_estimate_of_its_lora_is_the_size_of_its_numbers(
        self, whole: drill.Trained, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LORA_CACHE", env["LORA_CACHE"])
        here = Checkout(None)
        configuration = here.load(drill.configuration(self.name), ("network_train_unet_only=true",))
        job = start_checks.job_of(here.workspace, configuration, here.schema(configuration.script), here.tree)
        numbers = [value for key, value in whole.tensors().items() if "lora_unet" in key and not key.endswith("alpha")]
        assert sizes.lora(job) == sum(map(len, numbers))

    @pytest.mark.drill
    def test_stopped_twice_it_ends_with_the_bits_of_a_run_left_alone(
        self, whole: drill.Trained, env: dict[str, str], tmp_path: Path
    ) -> None:
        file = drill.configuration(self.name)
        for step in (2, 6):
            drill.stop(file, tmp_path / "out", env, step)
        again = drill.train(file, tmp_path / "out", env)
        assert again.ran.code == 0, again.ran.err
        assert again.tensors() == whole.tensors()

    def test_its_lora_imports_as_a_configuration_of_its_script(self, whole: drill.Trained) -> None:
        told = json.loads(lora("config", "import", "--json", whole.lora, cwd=ROOT).out)
        wanted = drill.script(self.name), "chroma" if self.name == "chroma" else "flux"
        values = {
            key: value for table in told["config"].values() if isinstance(table, dict) for key, value in table.items()
        }
        assert (told["script"], values.get("model_type", "flux")) == wanted
        assert values.get("v_parameterization", False) == (self.name == "sd2")

    @pytest.mark.drill
    def test_it_is_repeated_from_its_record_to_the_same_bits(self, whole: drill.Trained, env: dict[str, str]) -> None:
        again = lora("runs", "rerun", whole.lora, "--json", cwd=ROOT, env=env)
        assert again.code == 0, again.err
        assert json.loads(again.out)["same"]

    @pytest.mark.drill
    def test_diffusers_loads_its_lora_and_every_key_finds_its_module(self, whole: drill.Trained) -> None:
        if self.pipeline is None:
            pytest.skip(f"diffusers {pipelines.version()} has no pipeline for {self.name} that loads LoRAs")
        pipelines.assert_loads(self.pipeline(), whole.lora)

    @pytest.mark.drill
    def test_runtime_patches_and_caches_on_disk_work_together_and_a_step_that_is_not_finite_is_skipped(
        self, env: dict[str, str], cache: Path, tmp_path: Path
    ) -> None:
        file = drill.own_images(self.name, cache, tmp_path)
        sets = [*PATCHED, *self.cached()]
        ranks = () if self.processes == 1 else (f"launch.num_processes={self.processes}", "launch.backend=filestore")
        first = drill.train(file, tmp_path / "first", env, *sets, *ranks, "runtime.rank-noise=true")
        assert first.ran.code == 0, first.ran.err
        log = (first.record / "attempt-1.log").read_text(encoding="utf-8")
        assert [name for name in RUNTIME if f"runtime patch {name}: on" not in log] == []
        average = first.tensors(f"{first.lora.stem}-ema.safetensors")
        assert average.keys() == first.tensors().keys()
        assert average != first.tensors()
        made = drill.caches(tmp_path / "images")
        assert len(made) == (8 if self.cached() else 4)
        damaged = drill.damage(made)
        name = drill.overflow(made.keys() - damaged)
        made = {path: path.stat().st_mtime_ns for path in made}
        # safe-clip would skip the steps that are not finite as well
        second = drill.train(file, tmp_path / "second", env, *sets, "runtime.safe-clip=false")
        assert second.ran.code == 0, second.ran.err
        now = drill.caches(tmp_path / "images")
        assert {path for path in made if now[path] != made[path]} == damaged
        skipped = [event["images"] for event in second.events if event["event"] == "skipped"]
        assert skipped
        assert all(str(tmp_path / "images" / f"{name}.png") in images for images in skipped)

    def cached(self) -> list[str]:
        """Return the settings that cache text encoder outputs on disk, where the family can."""
        if families.of(drill.script(self.name)).text_outputs is None:
            return []
        cached = "cache_text_encoder_outputs"
        return ["network_train_unet_only=true", f"{cached}=true", f"{cached}_to_disk=true"]


class Merged(Family):
    """A family whose LoRA upstream's scripts merge into the model, extract again and resize."""

    merge: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]

    @pytest.mark.drill
    def test_merged_into_its_model_it_is_extracted_again_and_resized(
        self, whole: drill.Trained, env: dict[str, str], cache: Path, tmp_path: Path
    ) -> None:
        model = cache / f"smoke-{self.name}" / f"{self.name}.safetensors"
        merged, again, small = (tmp_path / f"{name}.safetensors" for name in ("merged", "again", "small"))
        exact = ("--save_precision", "float", "--save_to")
        for words in (
            (*self.merge, "--sd_model", model, "--models", whole.lora, "--ratios", "1", *exact, merged),
            (
                *("extract_lora_from_models", self.kind, "--model_org", model, "--model_tuned", merged),
                *("--dim", "4", "--min_diff", "0", "--clamp_quantile", "1", *exact, again),
            ),
            ("resize_lora", "--model", whole.lora, "--new_rank", "2", *exact, small),
        ):
            ran = lora("tool", "--config", drill.configuration(self.name), *words, cwd=ROOT, env=env)
            assert ran.code == 0, ran.err
        trained = drill.changes(whole.lora)
        # upstream cuts off what is below the negative of the largest value
        assert drill.difference(trained, drill.changes(again)) < 0.15
        assert 0 < drill.difference(trained, drill.changes(small)) < 0.9


class TestSdxl(Merged):
    name = "sdxl"
    merge = ("sdxl_merge_lora",)
    kind = "--sdxl"
    modules: ClassVar = {"lora_unet": 132, "lora_te1": 72, "lora_te2": 72}
    pipeline = staticmethod(pipelines.sdxl)
    processes = 2


class TestFlux(Family):
    name = "flux"
    modules: ClassVar = {"lora_unet": 32, "lora_te1": 72}
    pipeline = staticmethod(pipelines.flux)
    processes = 2


class TestSd2(Merged):
    name = "sd2"
    merge = ("merge_lora", "--v2")
    kind = "--v2"
    modules: ClassVar = {"lora_unet": 192, "lora_te": 72}
    pipeline = staticmethod(pipelines.sd2)


class TestFluxSchnell(Family):
    name = "flux-schnell"
    modules: ClassVar = {"lora_unet": 32, "lora_te1": 72}
    pipeline = staticmethod(pipelines.flux)


class TestChroma(Family):
    name = "chroma"
    modules: ClassVar = {"lora_unet": 24}


class TestSd3(Family):
    name = "sd3"
    modules: ClassVar = {"lora_unet": 41, "lora_te1": 72, "lora_te2": 72}


class TestAnima(Family):
    name = "anima"
    modules: ClassVar = {"lora_unet": 40, "lora_te": 14}


class TestLumina(Family):
    name = "lumina"
    modules: ClassVar = {"lora_unet": 48, "lora_te": 14}

    def test_without_local_tokenizers_upstream_asks_the_hub(self, env: dict[str, str], tmp_path: Path) -> None:
        assert "AutoTokenizer.from_pretrained(" in fails_without("local-tokenizers", self.name, env, tmp_path)


class TestHunyuanImage(Family):
    name = "hunyuan-image"
    modules: ClassVar = {"lora_unet": 32}

    def test_without_scalar_outputs_upstream_cannot_stack_them(self, env: dict[str, str], tmp_path: Path) -> None:
        assert "got numpy.bool" in fails_without("scalar-outputs", self.name, env, tmp_path)

    @pytest.mark.drill
    def test_without_local_tokenizers_upstream_asks_the_hub(self, env: dict[str, str], tmp_path: Path) -> None:
        said = fails_without("local-tokenizers", self.name, env, tmp_path)
        assert "Qwen2TokenizerFast.from_pretrained(QWEN_2_5_VL_IMAGE_ID)" in said


def fails_without(patch: str, name: str, env: dict[str, str], folder: Path) -> str:
    """Train with a patch switched off that the family needs; the log."""
    failed = drill.train(drill.configuration(name), folder, env, f"runtime.{patch}=false", "max_train_steps=1")
    assert failed.ran.code == 6, failed.ran.err
    return (failed.record / "attempt-1.log").read_text(encoding="utf-8")


def test_files_in_each_others_place_are_refused_before_the_start(
    env: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    flux, lumina = cache / "smoke-flux", cache / "smoke-lumina"
    swapped = {"t5xxl": flux / "ae.safetensors", "ae": flux / "t5xxl.safetensors"}
    for wrong in (swapped, {"pretrained_model_name_or_path": lumina / "lumina.safetensors"}):
        sets = [word for flag, file in wrong.items() for word in ("--set", f"{flag}={file}")]
        configuration = str(drill.configuration("flux"))
        ran = lora("train", configuration, "--set", f"output_dir={tmp_path}", *sets, cwd=ROOT, env=env)
        assert ran.code == 3
        assert "is the autoencoder of FLUX, not T5-XXL" in ran.err or 'script = "lumina_train_network"' in ran.err
