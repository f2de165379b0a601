# make serve | test | lint | contract | train | bench    (each installs what it needs into .venv first)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

.PHONY: serve test lint contract train bench

serve: $(VENV)/.serve
	$(BIN)/darkroom serve

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# The OpenAPI document against the server: every check and phase of Schemathesis, and Redocly.
contract: $(VENV)/.dev
	SCHEMATHESIS_EXAMPLES=$(or $(EXAMPLES),50) $(BIN)/python -m pytest tests/contract

# The model that ships, from its recipe: about an hour on two cores. Goes on where it was stopped.
train: $(VENV)/.dev
	$(BIN)/darkroom data get mnist
	$(BIN)/darkroom train vae digits --out runs/vae $(if $(wildcard runs/vae/state.pt),--resume)
	$(BIN)/darkroom train diffusion digits --vae runs/vae/vae --out runs/digits \
	    $(if $(wildcard runs/digits/state.pt),--resume)

# Ours beside its peers, about twenty minutes; leave the machine alone meanwhile.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.serving

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.12, say")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml requirements.lock
	$(PIP) -e '.[cpu]'
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml requirements.lock
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.serve

$(VENV)/.bench: $(VENV)/.python pyproject.toml requirements.lock
	$(PIP) -e '.[bench]'
	touch $@
