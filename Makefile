# `make` lists the targets. Every target but clean wraps a command that can be given by hand.
PYTHON ?= python3
CONFIG ?= configs/tutorial.yaml
TORTURE ?= 100000
RUNS ?= runs
VENV := .venv
BIN := $(VENV)/bin
# A test process a core, so one thread each. Compiled modules are kept: tests start dozens of Pythons.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all torture lint format typecheck compare plots results data docs build clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# One stamp for the environment: it is made again when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

install: $(VENV)/.installed  ## Make .venv and install NormBench with its development tools

demo: install  ## Compare four norms on built-in images and say where the plots are (a minute or two)
	$(BIN)/normbench demo --runs-dir $(RUNS)

test: install  ## Run the fast tests (some minutes on two cores)
	$(PYTEST) -m "not slow and not gpu"

test-all: install  ## Run all tests, also the slow ones and, with a GPU, those that need one; show the coverage
	$(PYTEST) --cov --cov-report=term

torture: install  ## Damage, kill, bomb and starve it for hours: make torture TORTURE=100000 (docs/reliability.md)
	NORMBENCH_TORTURE=$(TORTURE) $(PYTEST) tests/torture

lint: install  ## Check style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install  ## Format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

typecheck: install  ## Check the types of the package, strictly
	$(BIN)/mypy

compare: install  ## Run a comparison: make compare CONFIG=configs/tutorial.yaml
	$(BIN)/normbench compare $(CONFIG) --runs-dir $(RUNS)

plots: install  ## Redraw every plot and table from what is recorded under runs/
	$(BIN)/normbench plots $(RUNS)

results: install  ## Write the pages under docs/results, and README's results, anew from the bundles there
	$(BIN)/python docs/results_pages.py README*.md docs/results/*.md

data: install  ## Download CIFAR-10 (170 MB) into the user cache
	$(BIN)/normbench data fetch

docs: install  ## Write the API reference, from the docstrings, into build/api (no network needed)
	$(BIN)/python docs/api_reference.py build/api

build: install  ## Build the wheel and the source archive into dist/
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build

clean:  ## Remove caches and builds; never runs/, data/ or .venv/
	rm -rf build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
