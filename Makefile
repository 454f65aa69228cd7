# Two commands do everything on a fresh Debian/Ubuntu machine with Python >= 3.11, gcc and make:
#   make demo    install into .venv, sign the sample receipts end to end, print and verify them
#   make test    install into .venv with the test tools and run the tests

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.fiskal
BUILT  := $(wildcard csrc/*.[ch] csrc/*/*.[ch]) build.py pyproject.toml $(shell find fiskal -name '*.py')

BENCH  := $(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-storage=bench/baselines \
          --benchmark-columns=min,median,ops --benchmark-sort=name

.PHONY: demo test lint bench bench-compare bench-save sanitize wheel clean

demo: $(STAMP)
	$(BIN)/fiskal demo

test: $(STAMP)-test
	$(BIN)/python -m pytest

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	gcc -std=c11 -Wall -Wextra -Werror -Wconversion -O2 -Icsrc -Icsrc/frames -fsyntax-only $(wildcard csrc/*.c csrc/*/*.c)

bench: $(STAMP)-test
	$(BIN)/python -m pytest bench --benchmark-enable

# Beside the numbers that were saved last; a ratio that moved says more than a time.
bench-compare: $(STAMP)-test
	$(BENCH) --benchmark-compare

bench-save: $(STAMP)-test
	$(BENCH) --benchmark-save=baseline

sanitize: $(STAMP)-test
	sh tests/fuzz/run.sh
	$(BIN)/python tests/fuzz/fuzz_readers.py -n 20000

wheel: $(VENV)/bin/python
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist demo fiskal/_core.c fiskal/_core*.so

# A clear word beats a traceback when the machine lacks something.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fiskal needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	@command -v gcc >/dev/null || command -v cc >/dev/null || \
	  { echo "fiskal compiles a small C core: install gcc (apt-get install gcc)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "install the venv module first: apt-get install python3-venv python3-dev"; exit 1; }

$(STAMP): $(BUILT) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMP)-test: $(BUILT) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(STAMP) $@

$(STAMP)-dev: $(BUILT) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP) $(STAMP)-test $@
