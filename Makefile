# Each target does its own set-up: a virtual environment in .venv, installed once per change of the constraints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-slow bench lint types clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,report,dashboard]'
	touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/eigenzoo demo --out demo

test: $(BIN)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-slow: $(BIN)/.installed-test
	$(BIN)/python -m pytest -m slow

bench: $(BIN)/.installed-test
	$(BIN)/python bench/ingest_and_fit.py
	$(BIN)/python bench/ingest_large.py

lint: $(BIN)/.installed-test
	$(BIN)/ruff check .

types: $(BIN)/.installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
