# Needs only Python 3.11 or later and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help train test stress bench docs format clean

help:
	@echo "make train   train SAC on Pendulum-v1 from the replay memory, in one process"
	@echo "make test    install what is missing and run every gate"
	@echo "make stress  the long versions of the property and fault tests"
	@echo "make bench   the benchmarks beside other replay buffers; writes docs/benchmarks.md"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make format  format the code and fix what the linter can fix"

# torch comes first and alone: a version that another package chose could pull in several GB.
.venv/.package: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tmrl-memory needs Python 3.11 or later, found %d.%d; run make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) "pip>=25.1"
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/.dev: .venv/.package
	$(PIP) --editable '.[mujoco,datasets]' --group dev
	touch $@

train: .venv/.package
	$(BIN)/tmrl train

test: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	$(BIN)/python -m pytest -m "not stress" -n 3 --dist worksteal

stress: .venv/.dev
	$(BIN)/python -m pytest -m stress --timeout 7200

bench: .venv/.package
	$(BIN)/python benchmarks/run.py

docs: .venv/.dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-bench docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
