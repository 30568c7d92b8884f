# Everything a user or a developer does starts here; each target does its own set-up.
#
#   make run      run the shipped guest hypervisor under ours, and show what happens
#   make test     the tests (no compiler and no special rights needed)
#   make check    what must pass before a commit: format, lint, types, layers, tests
#   make slow     the broad matrices that `make test` only samples
#   make bench    how fast it is, as ratios in one run
#   make systems  other people's systems: those that are installed, bare and nested
#   make debian   fetch Debian's kernel, Xen and busybox into build/debian, without installing them
#   make images   rebuild the guests from their sources (gcc and binutils of Debian 12)
#   make bochs    run the guests on Bochs too and compare (bochs, xorriso, grub-pc-bin)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
STAMP  := $(VENV)/.installed
PYTEST := $(BIN)/pytest -n auto

.PHONY: setup run test check lint slow bench systems debian images check-images bochs clean

setup: $(STAMP)

# What running needs; its bytecode too, which some environments keep Python from writing.
$(RUNS): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q src
	touch $(RUNS)

# And what developing needs.
$(STAMP): $(RUNS)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

run: $(RUNS)
	$(BIN)/turducken run lhv-amd64

test: setup
	$(PYTEST)

check: lint
	$(PYTEST)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: setup
	$(PYTEST) -m slow

bench: setup
	$(BIN)/turducken bench

systems: setup
	$(BIN)/turducken systems --try $(if $(wildcard build/debian),--root build/debian)

debian:
	mkdir -p build/debian
	cd build/debian && apt-get download xen-hypervisor-4.17-amd64 busybox-static \
		$$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p')
	cd build/debian && for package in *.deb; do dpkg -x $$package .; done

images:
	$(MAKE) -C guests install
	$(MAKE) -C guests/bench install
	$(MAKE) -C guests/first install
	$(MAKE) -C guests/fuzz install
	$(MAKE) -C guests/mistakes install
	$(MAKE) -C guests/zoo install
	$(MAKE) -C guests/pal-demo install
	$(MAKE) -C guests/uefi install
	$(MAKE) -C guests/bios install
	$(MAKE) -C guests/linux install
	$(MAKE) -C guests/xen install

check-images:
	$(MAKE) -C guests check
	$(MAKE) -C guests/bench check
	$(MAKE) -C guests/first check
	$(MAKE) -C guests/fuzz check
	$(MAKE) -C guests/mistakes check
	$(MAKE) -C guests/zoo check
	$(MAKE) -C guests/pal-demo check
	$(MAKE) -C guests/uefi check
	$(MAKE) -C guests/bios check
	$(MAKE) -C guests/linux check
	$(MAKE) -C guests/xen check

bochs:
	$(MAKE) -C guests bochs

clean:
	rm -rf $(VENV) guests/build build
