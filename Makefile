# Every target does its own set-up: .venv is made on first use, and again when what it is made from changes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first interpreter that really starts and is new enough.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

.PHONY: help setup demo test test-all lint bench bench-scale clean

help:
	echo 'make setup     install everything into $(VENV), with the versions of requirements.lock'
	echo 'make demo      run the whole path on synthetic videos: shards, training, embedding, search'
	echo 'make test      the fast tests'
	echo 'make test-all  all tests: also the slow ones, those of a GPU and of a browser where there is one'
	echo 'make lint      ruff, pyright, import layers, file lengths'
	echo 'make bench     run the benchmarks'
	echo 'make bench-scale  the data plane over manifests of ROWS="1000000 4000000" made-up rows'
	echo 'make clean     remove $(VENV) and caches; data under runs/ stays'

setup: $(STAMP)
	echo 'Ready. Next: make demo, or $(BIN)/fpig doctor'

$(STAMP): pyproject.toml requirements.lock
	python='$(PYTHON)'
	if [[ -z $$python ]]; then
	  echo 'fpig: no Python 3.11 or newer on PATH; install one, or name it: make setup PYTHON=/path/to/python3.12' >&2
	  exit 1
	fi
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "fpig: got $$("$$python" -V), wanted Python 3.11 or newer; name another with PYTHON=" >&2
	  exit 1
	}
	echo "Making $(VENV) with $$("$$python" -V)"
	"$$python" -m venv $(VENV)
	echo 'Installing; the first time downloads about 3 GB, which take some minutes'
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c requirements.lock -e '.[dev]' |
	  awk '{ size = $$(NF - 1); sub(/[(]/, "", size) }
	    $$NF == "MB)" && size + 0 >= 20 { sub(/^ +/, ""); print "  " $$0; fflush() }
	    /^Installing collected/ { print "  Installing the packages"; fflush() }'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m jobs.demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-all: $(STAMP)
	gpu=$$($(BIN)/python -c 'import torch; print("gpu or not gpu" if torch.cuda.is_available() else "not gpu")')
	command -v chromium chromium-browser google-chrome >/dev/null || echo 'No Chromium on PATH: the tests of the search page are left out'
	$(BIN)/python -m pytest -m "$$gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_layers.py

bench: $(STAMP)
	for name in data cache guard model train embed search serve; do echo "== benchmarks.$$name"; $(BIN)/python -m "benchmarks.$$name"; done

ROWS ?= 1000000 4000000
bench-scale: $(STAMP)
	$(BIN)/python -m benchmarks.scale --rows $(ROWS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
