# make serve | check | test | lint | contract | train | bench | bench-gpu    (each installs what it
# needs into .venv first)
# make lock    after a change of what pyproject.toml needs; see requirements/lock.py

# Which build of PyTorch: cpu, cuda, or auto, which looks for an NVIDIA driver.
TORCH ?= auto
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# In three processes, because servers that start or end leave cores idle; file by file, so that what
# the tests of a file share is made once.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: serve check test lint static contract train bench bench-gpu lock

serve: $(VENV)/.serve
	$(BIN)/darkroom serve

# Style, types and the quick tests, for after every change; it ends with the slowest of them.
check: static
	$(PYTEST) -m "not (server or training or slow)" --durations 5

test: static
	$(PYTEST)

# Style, types, and which module may import which.
lint: static
	$(BIN)/python -m pytest tests/test_architecture.py

static: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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

# The engine on a GPU, eight minutes; see docs/gpu.md.
bench-gpu: $(VENV)/.bench-gpu
	$(BIN)/python -m benchmarks.gpu $(ARGS)

lock: $(VENV)/.dev
	$(BIN)/python requirements/lock.py $(ARGS)

# The environment says where it was made: its scripts name that place. A checkout that has moved, or
# whose Python is gone, gets a new one.
ifneq ($(shell $(BIN)/python -c 'print(open("$(VENV)/.python").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.python
endif
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.12, say")'
	$(PYTHON) -m venv --clear $(VENV)
	@printf '%s' '$(CURDIR)' > $@

# The libraries of one lock, then the project itself, built by the setuptools that came with them.
$(addprefix $(VENV)/., serve train dev bench bench-gpu): $(VENV)/.%: $(VENV)/.python pyproject.toml \
    requirements/install.py requirements/%.lock requirements/cuda.lock
	@$(BIN)/python requirements/install.py $* $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
