# Everything happens in .venv, made here; nothing outside this folder is touched.
#   make demo   train, build FP16 and INT8, bench, print the table (a few minutes; no data needed)
#   make test   lint, types, tests
#   make ship RUN=runs/NAME   put a finished run's network into the package (fer_edge/pretrained)
# FER_EDGE_DATA=/path/to/fer2013.zip makes both use the real FER2013.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit bench frontier reproduction ship clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/fer-edge demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -q --durations=15

# Times are for people to read: `make test` asserts none.
bench: $(STAMP)
	$(BIN)/python -m pytest -q bench --benchmark-only

# Our network beside those that users would otherwise run: minutes, on a quiet machine.
frontier: $(STAMP)
	$(BIN)/python bench/frontier.py

# The table of what `bench/reproduction.py run ROW` has measured so far; it trains nothing.
reproduction: $(STAMP)
	$(BIN)/python bench/reproduction.py table

# Fit the confidence, build, verify and put a run's network into the package: make ship RUN=runs/NAME
ship: $(STAMP)
	$(BIN)/python bench/ship.py $(RUN)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
