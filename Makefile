# Every target does its own set-up: a virtual environment in .venv, filled from the locks in requirements/.
# The first run takes a minute, later ones start at once.

PYTHON ?= python3

VENV  := .venv
BIN   := $(VENV)/bin
RUN   := $(BIN)/python
PIP   := $(RUN) -m pip --disable-pip-version-check --no-input --quiet
STAMP := $(VENV)/.stamp
LOCKS := requirements/build.lock requirements/dev.lock

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test lint format conformance chaos bench lock clean

# `make chaos N=300`: how often, read by the chaos tests
ifdef N
export N
endif

help:  ## show this list
	@awk -F ':.*##' '/^[a-z]+:.*##/ { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the locks (all others do it too)

demo: $(STAMP)  ## a counter under a supervisor: called, killed, restarted
	@$(RUN) examples/counter_demo.py

test: lint  ## linters, types, layers, then the tests
	@$(RUN) -m pytest

lint: $(STAMP)  ## ruff, mypy --strict and the layers, without the tests
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m mypy
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)  ## let ruff format and repair what it can
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

conformance: $(STAMP)  ## Thespian's own test suite, on its base and on ours
	@$(RUN) tests/conformance/run.py

chaos: $(STAMP)  ## kill processes at random and count what goes wrong (N=300: how often)
	@$(RUN) -m pytest tests/chaos -m chaos --timeout=1800

bench: $(STAMP)  ## measure ours and its peers side by side
	@$(BIN)/dspex bench actors
	@$(BIN)/dspex bench recovery

lock:  ## write the locks anew, as close to the old as pyproject.toml allows (UPGRADE=1: newest)
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check --no-input --quiet install --require-hashes --no-deps -r requirements/lock.lock
	@$(COMPILE) --extra dev --output-file requirements/dev.lock pyproject.toml
	@$(COMPILE) --group build --constraints requirements/dev.lock --output-file requirements/build.lock
	@$(COMPILE) --group lock --output-file requirements/lock.lock
	@rm -rf .venv-lock

COMPILE = .venv-lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

clean:  ## remove .venv and what the tools left behind
	rm -rf .venv .venv-lock .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment itself: built from nothing whenever a lock changes, so that it holds what the locks say and nothing else.
# thespian is built from source with the setuptools of build.lock: no build isolation, hence nothing unhashed.
$(VENV)/.locked: $(LOCKS)
	@command -v $(PYTHON) >/dev/null || { echo "dspex-actors needs Python 3.11 or newer, and '$(PYTHON)' was not found: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "dspex-actors needs Python 3.11 or newer, and $(PYTHON) is %d.%d: choose another with make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "Setting up $(VENV) from requirements/*.lock (once, about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes --no-deps --only-binary :all: -r requirements/build.lock
	@$(PIP) install --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/dev.lock
	@touch $@

# The project itself, editable: again whenever its metadata changes.
$(STAMP): $(VENV)/.locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
