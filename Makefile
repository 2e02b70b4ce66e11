# Everything is installed into .venv in this folder; no other folder is changed.
#   make demo   train, build FP16 and INT8, bench, print the table (a few minutes; no data needed)
#   make test   lint, types, tests
#   make fuzz   hostile inputs for ten minutes, and a table
#   make ship RUN=runs/NAME   put a finished run's network into the package (fer_edge/pretrained)
# With FER_EDGE_DATA=/path/to/fer2013.zip, `make demo` and `make test` use the real FER2013.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit fixes fuzz fuzz-cpp audit bench frontier reproduction ship clean

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
	$(BIN)/python -m pytest -q --durations=15 --numprocesses 2 --dist loadfile

# Follows the advice of every error: also what needs several trainings, which `make test` skips.
fixes: $(STAMP)
	FER_EDGE_FIXES=all $(BIN)/python -m pytest -q tests/test_fixes.py

# Hostile inputs of every kind for ten minutes, and the table of what failed.
fuzz: fuzz-cpp
	$(BIN)/python tests/fuzz/fuzz.py --minutes 10

# Mutated files for the C++ runner's readers, under the sanitizers; SECONDS is for each reader.
# With clang: libFuzzer; else engines/cpp/fuzz/driver.cpp. The first line says which.
SECONDS ?= 10
fuzz-cpp: $(STAMP)
	$(BIN)/python tests/fuzz/fuzz_cpp.py $(SECONDS)

# Compares the installed packages with known vulnerabilities. An old Pillow has some: if none is
# found in it, the advisories cannot be reached, and the answer would mean nothing.
audit: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	echo "pillow==9.0.0" > $(VENV)/vulnerable.txt
	! $(BIN)/pip-audit --no-deps --disable-pip -r $(VENV)/vulnerable.txt || \
	  { echo "error: no advisories can be reached from here, so nothing was checked"; exit 5; }
	$(BIN)/pip-audit --local

# People read these times; `make test` does not check any times.
bench: $(STAMP)
	$(BIN)/python -m pytest -q bench --benchmark-only

# Compares our network with common networks: takes minutes; use a machine without other load.
frontier: $(STAMP)
	$(BIN)/python bench/frontier.py

# Writes the table of all results of `bench/reproduction.py run ROW`; it trains nothing.
reproduction: $(STAMP)
	$(BIN)/python bench/reproduction.py table

# Fits the confidence, builds and verifies a run's network, and puts it into the package: make ship RUN=runs/NAME
ship: $(STAMP)
	$(BIN)/python bench/ship.py $(RUN)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
