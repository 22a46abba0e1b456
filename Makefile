# Two commands matter: `make repro` (the whole experiment) and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test lint setup ui sweep cluster clean

repro: setup  ## run every stage whose inputs changed
	$(BIN)/dvc repro

# In the files' own order the long tests, of pipeline/, come first, and none is left to one worker at the end.
test: setup  ## the whole suite, JOBS files at a time
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: setup  ## MLflow's pages on loopback, http://127.0.0.1:5000
	$(BIN)/python -m pipeline.ui

sweep: setup  ## the search of params.yaml's `sweep` section
	$(BIN)/python -m pipeline.sweep

cluster: setup  ## a Ray head on loopback, for `ray job submit`
	$(BIN)/python -m pipeline.cluster

setup: $(VENV)/.installed

# torch first and pinned: asked for by another package first, it would come as a newer build. basicsr asks for
# opencv-python, whose module needs libGL; the headless build of the same module, which pyiqa asks for, needs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch 'setuptools<81' wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[pipeline,export,demo,dev]'
	$(BIN)/pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps opencv-python-headless
	touch $@

clean:
	rm -rf $(VENV) .tsdsr
