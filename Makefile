# Everything a user or a developer does starts here; each target does its own set-up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup run test check bench images check-images slow clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

run: setup
	$(BIN)/turducken run lhv-amd64

test: setup
	$(BIN)/pytest -n auto -q

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto -q

bench: setup
	$(BIN)/turducken bench

images:
	$(MAKE) -C guests install

check-images:
	$(MAKE) -s -C guests check

clean:
	rm -rf $(VENV) guests/build
