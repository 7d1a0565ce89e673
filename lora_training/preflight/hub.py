"""Find the files that a training loads from the Hugging Face hub: those here, and those that can be brought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_training import families, files
from lora_training.preflight import weights
from lora_training.preflight.job import Job
from lora_training.problems import Problem, Severity

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_WAIT_S = 10
_VAE = "AutoencoderKL"
_CONFIG = "tokenizer_config.json"
_VOCABULARIES = ("vocab.json", "tokenizer.json", "spiece.model", "tokenizer.model")
_BYTES = "byt5"  # its tokenizer has no vocabulary


@dataclass(frozen=True)
class Repository:
    """A repository on the hub. `loader`: the class of diffusers that loads the model; None for a tokenizer.

    `inner`: the folder of the tokenizer in it; `key`: the flag that gives the model; `local`: the folder in
    `tokenizer_cache_dir` from which upstream reads the tokenizer if it is there; `cache`: that of huggingface_hub.
    """

    name: str
    cache: Path
    loader: str | None = None
    key: str | None = None
    inner: str = ""
    local: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder with its files in the hub's cache, which is not there if they have not been brought."""
        root = self.cache / f"models--{self.name.replace('/', '--')}"
        try:
            commit = (root / "refs" / "main").read_text(encoding="utf-8").strip()
        except OSError:
            commit = "-"
        return root / "snapshots" / commit / self.inner

    @property
    def is_here(self) -> bool:
        """Whether it can be loaded without a network."""
        if self.local and self.local.exists():
            return True
        names = {path.name for path in self.folder.glob("*")}
        if self.loader == _VAE:
            return "config.json" in names or (self.folder / "vae" / "config.json").exists()
        if self.loader:
            return "model_index.json" in names
        return _CONFIG in names and (_BYTES in self.name or not names.isdisjoint(_VOCABULARIES))


def needed(job: Job) -> Iterator[Repository]:
    """Yield the repositories that a training loads: models that are given as hub ids, and the script's tokenizers."""
    family, cache = families.of(job.script), _cache(job.environ)
    for key, loader in ((weights.MODEL, family.pipeline), ("vae", family.pipeline and _VAE)):
        value = job.value(key)
        if loader and value and families.HUB_ID.fullmatch(value) and not Path(job.cwd, value).exists():
            yield Repository(value, cache, loader, key)
    folder = job.value("tokenizer_cache_dir")
    for tokenizer in family.tokenizers_v2 if job.on("v2") else family.tokenizers:
        owner, name, *inner = tokenizer.split("/")
        local = Path(job.cwd, folder, f"{owner}_{name}") if folder else None
        yield Repository(f"{owner}/{name}", cache, inner="/".join(inner), local=local)


def missing(job: Job) -> Iterator[tuple[str, str]]:
    """Yield the models that upstream takes as a file or folder and that are not there, with their flags."""
    ids = {each.key for each in needed(job)}
    for key in weights.KEYS:
        for value in job.values(key):
            if key not in ids and not Path(job.cwd, value).exists():
                yield key, value


def problems(job: Job, command: str) -> Iterator[Problem]:
    """Yield the repositories that are not here and cannot be brought. `command` brings them.

    Without a training to start, the hub is not asked.
    """
    for key, value in missing(job):
        if refused := families.refused_hub_id(job.script, key, value):
            yield Problem(refused, families.GIVE_FILE, key=key)
    offline = next((name for name in _OFFLINE if job.environ.get(name, "").upper() in _TRUE), None)
    down = f"{offline} is set" if offline else None
    for each in (each for each in needed(job) if not each.is_here):
        why, hint = (down, None) if down or job.only_looks else refusal(each.name)
        if why:
            down = why if hint is None else down
            what = f"`{each.key}`: {each.name}" if each.key else f"the tokenizer {each.name}"
            brings = f"`{command}` brings it" + ("" if hint else " while there is a network")
            severity: Severity = "warning" if job.only_looks else "error"
            message = f"{what} is not in the hub's cache, {each.cache}, and {why}"
            yield Problem(message, "\n".join([*([hint] if hint else []), brings]), severity, key=each.key)


def refusal(name: str) -> tuple[str | None, str | None]:
    """Return why the hub does not give a repository, and what to do; no hint if the hub cannot be reached at all."""
    from huggingface_hub import HfApi, constants, errors

    try:
        HfApi().model_info(name, timeout=_WAIT_S)
        HfApi().auth_check(name)
    except errors.GatedRepoError:
        accept = f"accept its terms at {constants.ENDPOINT}/{name}, then log in with `hf auth login`, or set HF_TOKEN"
        return "it is gated: the hub gives it only to those who accepted its terms", accept
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        return "the hub has none of that name", "is it spelled right? a private one needs `hf auth login`"
    except errors.HfHubHTTPError:
        return None, None  # a mirror may not have all of the hub's addresses
    except errors.OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set", None
    except OSError:
        return f"the hub, {constants.ENDPOINT}, cannot be reached", None
    return None, None


def _cache(environ: Mapping[str, str]) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return files.expanded(environ[name])
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return files.expanded(home) / "hub"
