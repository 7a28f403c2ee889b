# Each target does its own set-up: a virtual environment in .venv, installed once per change of the constraints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
WORKERS ?= 2

.PHONY: demo test test-slow bench bench-engine lint types clean

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

bench: $(BIN)/.installed-test bench-engine
	$(BIN)/python bench/ingest_and_fit.py
	$(BIN)/python bench/ingest_large.py
	$(BIN)/python bench/dask_scaling.py

# torch first: with an index of CUDA builds it would otherwise come as somebody's dependency, at several GB.
# A peer that cannot be installed is a line of the table, not an error.
$(PEERS)/.installed: pyproject.toml constraints.txt bench/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -c constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet -c constraints.txt -e '.[torch,report]'
	rm -f $(PEERS)/not-installed.txt
	while read -r peer; do \
	  $(PEERS)/bin/python -m pip install --quiet -c constraints.txt "$$peer" 2> $(PEERS)/pip.log || \
	  echo "$$peer: $$(grep -m 1 ERROR $(PEERS)/pip.log)" >> $(PEERS)/not-installed.txt; \
	done < bench/requirements-peers.txt
	touch $@

bench-engine: $(PEERS)/.installed
	$(PEERS)/bin/python -m bench.fitting

lint: $(BIN)/.installed-test
	$(BIN)/ruff check .

types: $(BIN)/.installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(PEERS) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
