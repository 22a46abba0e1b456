# The main commands are `make repro` (the whole experiment) and `make test`; `make help` lists all.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

# `TORCH=cpu` installs PyTorch's builds without CUDA from its own index.
TORCH ?=
PIP_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
ERROR := .tsdsr/error

.PHONY: help repro test lint setup nano ui sweep cluster gpu-check clean

# In a downloaded archive, which has no .git, DVC runs without git. A failed stage's error is repeated below DVC's message.
define dvc_repro
@[ -e .git ] || $(BIN)/dvc config --local core.no_scm true
@rm -f $(ERROR); $(BIN)/dvc repro $(1) || { status=$$?; cat $(ERROR) >&2 2>/dev/null; exit $$status; }
endef

repro: setup  ## run every stage whose inputs changed (TORCH=cpu: install PyTorch without CUDA)
	$(call dvc_repro)

# In the order of the files the long tests, in pipeline/, are first, so that no worker has one left at the end.
test: setup  ## run all tests, JOBS files at a time (JOBS=2)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two runs; the second starts from START, a copy of the first one's student. Remove START to repeat both.
NANO ?= params/nano.yaml
START := data/students/start
nano: $(START)  ## train the shipped model and its teacher on the photographs in data/photographs
	$(BIN)/python -m pipeline.params apply $(NANO) params/nano-grain.yaml
	$(call dvc_repro,distill)

$(START): | setup
	$(BIN)/python -m pipeline.params apply $(NANO)
	$(call dvc_repro,distill)
	rm -rf $@.part && cp -r data/students/full $@.part && mv $@.part $@

ui: setup  ## serve MLflow on loopback, http://127.0.0.1:5000
	$(BIN)/python -m pipeline.ui

sweep: setup  ## search the values of params.yaml's `sweep` section
	$(BIN)/python -m pipeline.sweep

cluster: setup  ## start a Ray head on loopback, for `ray job submit`
	$(BIN)/python -m pipeline.cluster

gpu-check: setup  ## run the GPU's tests and benchmarks, in at most 9 minutes
	@$(BIN)/python benchmarks/gpu_check.py

setup: $(VENV)/.installed  ## install everything into .venv

# torch is installed first, since as a dependency of another package it could be a newer build. basicsr requires
# opencv-python, which needs libGL; the headless build of the same module, which pyiqa requires, does not.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_INDEX) torch 'setuptools<81' wheel
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_INDEX) --editable '.[pipeline,export,demo,dev]'
	$(BIN)/pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps opencv-python-headless
	touch $@

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 11

clean:  ## remove .venv and unfinished work, but not data and reports
	rm -rf $(VENV) .tsdsr
