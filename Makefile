# Needs python3 (3.10 or later), make and git; everything else is installed into .venv.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(sort $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))
# Folders with code to check that is in no distribution, as far as they exist.
LOOSE := $(wildcard conftest.py examples tests benchmarks plugins/*/tests)

# Tests wait more than they compute: twice as many at a time as CI has cores.
PARALLEL := -n 4

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint clean compat soak bench .venv

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: .venv ## run the sharded checkpoint with both backends, then with a rank that stops
	$(BIN)/python examples/sharded_checkpoint/demo.py

test: .venv ## run every test; fails when less than 95 % of the core is covered
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) $(ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-all: export EXHAUSTIVE_TESTS := 1
test-all: test ## run every test at its full size, on every Python of this machine

lint: .venv ## run ruff (rules and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,barrier_core $(patsubst plugins/%,barrier_%,$(PLUGINS)))
	$(BIN)/mypy $(LOOSE)

compat: .venv ## run discovery with the oldest and newest pluggy and importlib-metadata
	$(BIN)/python -m pytest tests/test_compat.py -v $(ARGS)

soak: .venv ## torture two jobs for ten minutes; ARGS="--backend NAME" takes another backend
	$(BIN)/python tests/soak.py --seconds 600 $(ARGS)

bench: .venv ## measure barriers side by side, in under ten minutes; writes benchmarks/results.*
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
		-r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environments and everything that was built
	rm -rf $(VENV) .venvs build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(foreach plugin,$(PLUGINS),$(plugin)/build $(plugin)/dist)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: $(STAMP)

# A changed pyproject file or constraint installs again.
$(STAMP): pyproject.toml $(PLUGINS:=/pyproject.toml) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "barrier-core needs Python 3.10 or later, not %s: set PYTHON=" % sys.version.split()[0])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes a few minutes: torch is large)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
		-e '.[dev]' $(addprefix -e ,$(PLUGINS))
	@touch $@
