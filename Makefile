# make serve | test | lint | train | bench    (each installs what it needs into .venv first)

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

.PHONY: serve test lint train bench

serve: $(VENV)/.serve
	$(BIN)/darkroom serve --port $(PORT)

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# The model that ships, from its recipe: about two hours on two cores.
train: $(VENV)/.dev
	$(BIN)/darkroom data get mnist
	$(BIN)/darkroom train vae digits --out runs/vae
	$(BIN)/darkroom train diffusion digits --vae runs/vae/vae --out runs/digits

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.serving

$(VENV)/.serve: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.dev: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.serve
