# Two commands matter: `make repro` (the whole experiment) and `make test`; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

# `TORCH=cpu` takes PyTorch's builds without CUDA, from its own index; a pip that is set up for them needs no option.
TORCH ?=
PIP_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
ERROR := .tsdsr/error

.PHONY: help repro test lint setup ui sweep cluster gpu-check clean

# Without git (a downloaded archive) DVC is told so. Where a stage fails, its error is repeated below what DVC says of it.
repro: setup  ## run every stage whose inputs changed (TORCH=cpu: install PyTorch without CUDA)
	@[ -e .git ] || $(BIN)/dvc config --local core.no_scm true
	@rm -f $(ERROR); $(BIN)/dvc repro || { status=$$?; cat $(ERROR) >&2 2>/dev/null; exit $$status; }

# In the files' own order the long tests, of pipeline/, come first, and none is left to one worker at the end.
test: setup  ## the whole suite, JOBS files at a time (JOBS=2)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: setup  ## MLflow's pages on loopback, http://127.0.0.1:5000
	$(BIN)/python -m pipeline.ui

sweep: setup  ## the search of params.yaml's `sweep` section
	$(BIN)/python -m pipeline.sweep

cluster: setup  ## a Ray head on loopback, for `ray job submit`
	$(BIN)/python -m pipeline.cluster

gpu-check: setup  ## on a machine with CUDA: its tests and benchmarks, in at most 9 minutes
	@$(BIN)/python benchmarks/gpu_check.py

setup: $(VENV)/.installed  ## install everything into .venv

# torch first and pinned: asked for by another package first, it would come as a newer build. basicsr asks for
# opencv-python, whose module needs libGL; the headless build of the same module, which pyiqa asks for, needs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_INDEX) torch 'setuptools<81' wheel
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_INDEX) --editable '.[pipeline,export,demo,dev]'
	$(BIN)/pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps opencv-python-headless
	touch $@

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 11

clean:  ## remove .venv and unfinished work; data and reports stay
	rm -rf $(VENV) .tsdsr
