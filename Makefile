# Every target that needs the environment makes it first; when it is there, that takes a moment.
PYTHON ?= python3
LORA := .venv/bin/lora
# what works on this project has an environment of its own, so that the one for training stays as it is
DEV := .venv-dev/bin
# without what the shell sets for Python and for `lora`, which would decide what is installed or how it is tested
CLEAN := env $(patsubst %,-u %,$(filter PYTHON% LORA_%,$(.VARIABLES)))
CONFIG ?= configs/smoke.toml
# the `logging_dir` of the configurations
LOGS ?= output
# given as `make test T="tests/patching -k symlink"`
T ?=
# so many tests at a time, a file's in one process
JOBS ?= 2

# the container image: made with docker, podman or buildah
ENGINE ?= docker
IMAGE ?= lora-training
# more of the engine's own flags, as in RUN_FLAGS="--gpus all", and what `lora` is given, as in ARGS="train /data/my.toml"
BUILD_FLAGS ?=
RUN_FLAGS ?=
ARGS ?=

.DEFAULT_GOAL := help
# the `+`: also with `make -n`
.DEFAULT:
	+@echo "error: there is no target $@" >&2; echo "hint: \`make help\` lists them" >&2; exit 2
.PHONY: help setup setup-dev setup-tag setup-lycoris train tensorboard test test-families lint patch-apply patch-revert patch-verify requirements compat \
	bench docker-build docker-run

help:            ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 18

setup:           ## the environment for training, in .venv
	@$(CLEAN) "$(PYTHON)" -m lora_training.bootstrap train

setup-dev:       ## another with the tools for working on this project, in .venv-dev
	@$(CLEAN) "$(PYTHON)" -m lora_training.bootstrap dev

setup-tag:       ## also what `lora data tag` needs
setup-lycoris:   ## also what a LyCORIS network needs
setup-tag setup-lycoris: setup-%: setup
	@.lora/uv/bin/uv pip install --quiet --no-deps --require-hashes -p .venv/bin/python -r requirements/$*.txt

train: setup     ## train: make train CONFIG=configs/smoke.toml
	@$(LORA) train "$(CONFIG)"

tensorboard: setup ## the curves of the runs in LOGS, at port 6006
	@[ -d "$(LOGS)" ] || { echo "error: there is no folder $(LOGS)" >&2; exit 2; }
	@.venv/bin/tensorboard --logdir "$(LOGS)"

# `-u`, so that a file or a pipe gets each dot as it comes
test: setup-dev  ## the whole test suite
	@$(CLEAN) $(DEV)/python -u -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder --cov --cov-report=term:skip-covered $(T)

test-families: setup-dev  ## every family of models: stop and resume, caches, patches, diffusers, presets
	@$(CLEAN) $(DEV)/python -u -m pytest -n $(JOBS) --dist loadscope -m "families or not families" tests/families $(T)

lint: setup-dev  ## style, types, stale documents
	@$(DEV)/ruff check
	@$(DEV)/ruff format --check
	@$(CLEAN) $(DEV)/mypy
	@$(CLEAN) $(DEV)/lora patch docs --check

patch-apply: setup   ## apply every patch
	@$(LORA) patch apply

patch-revert: setup  ## take every patch out
	@$(LORA) patch revert

# without `setup`, which would apply them first
patch-verify: $(LORA)  ## check that every patch is applied and no file drifted
	@$(LORA) patch verify

$(LORA):
	@$(MAKE) setup

bench: setup-dev     ## measure: patching, the first step, the cost of a step, hostile files
	@LORA_RUNS=$(CURDIR)/.lora/runs-of-benchmarks $(DEV)/python -m benchmarks.patching
	@LORA_RUNS=$(CURDIR)/.lora/runs-of-benchmarks $(DEV)/python -m benchmarks.launching
	@LORA_RUNS=$(CURDIR)/.lora/runs-of-benchmarks $(DEV)/python -m benchmarks.runtime
	@$(DEV)/python -m benchmarks.importers
	@$(DEV)/python -m benchmarks.patches --trees 1000 --mutated 1000

docker-build:    ## the container image: make docker-build ENGINE=docker|podman|buildah
	@"$(PYTHON)" -m devtools.image build --engine "$(ENGINE)" --image "$(IMAGE)" --with="$(BUILD_FLAGS)"

docker-run: docker-build  ## the smoke run in the image, or ARGS="train /data/my.toml" RUN_FLAGS="--gpus all -v ..."
	@"$(PYTHON)" -m devtools.image run --engine "$(ENGINE)" --image "$(IMAGE)" --with="$(RUN_FLAGS)" -- $(ARGS)

compat: setup-dev    ## try the trios of torch, torchvision and xformers; writes docs/compat.md
	@$(DEV)/python -m devtools.compat

UV_COMPILE := .lora/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
	--generate-hashes --no-emit-package transformers --custom-compile-command "make requirements" pyproject.toml

requirements: setup-dev  ## compile requirements/*.txt from pyproject.toml
	@$(UV_COMPILE) --extra train --extra ui -o requirements/train.txt
	@$(UV_COMPILE) -c requirements/train.txt -o requirements/lora.txt
	@$(UV_COMPILE) --extra train --extra ui --extra tag -c requirements/train.txt -o requirements/tag.txt
	@$(UV_COMPILE) --extra train --extra ui --extra lycoris -c requirements/train.txt -o requirements/lycoris.txt
	@$(UV_COMPILE) --extra train --extra ui --extra tag --extra dev -c requirements/train.txt -o requirements/dev.txt
