# `make demo` and `make test` set up what they need; the rest assumes they ran.
PYTHON ?= python3
VENV ?= .venv
# More options of pip for torch alone, such as an index of builds without CUDA.
TORCH_PIP_FLAGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# pip would tell of an older Python too, but behind the largest download.
NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or \
	sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12, say")

.PHONY: demo test lint bench bench-export clean
.DEFAULT_GOAL := demo

demo: $(STAMP) ## environment, then: inspect, materialize, export, verify, bench, report
	$(BIN)/coronet-deploy demo --output out

# Without bytecode every command that a test starts would compile the package anew.
test: $(STAMP) lint ## environment, then everything CI runs, a process a core
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto \
		--maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## measure this host; prints tables, for benchmarks/RESULTS.md
	$(BIN)/python benchmarks/bench_lowering.py

# An environment is one once it has pip: a Debian without python3-venv leaves one that has none.
# torch first and by its exact version, so that no other package widens it. Which build that is, for
# a CPU alone or with CUDA, is what pip's index has for this machine: TORCH_PIP_FLAGS chooses.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -c '$(NEW_ENOUGH)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH_PIP_FLAGS) torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

bench-export: $(STAMP) ## beside other converters and runtimes; a peer that cannot be installed is left out
	-$(BIN)/python benchmarks/peers/setup.py
	$(BIN)/python benchmarks/bench_export.py

clean: ## the environment and the demo's output; what was trained or measured into runs/ stays
	rm -rf $(VENV) out
