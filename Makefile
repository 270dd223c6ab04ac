# Every command of the project. `make` without a target lists them.
SHELL := /bin/bash
PYTHON ?= python3
EXTRA ?= auto
ARGS ?=
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup train test test-fast check audit study bench bench-gates bench-peers plots clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## create or update .venv; does nothing if it is up to date (PYTHON=python3.12, EXTRA=cpu|gpu)
	@$(PYTHON) scripts/setup.py --extra $(EXTRA)

train: setup ## train; without ARGS, the embedded model on two-digit sums (ARGS="gate=clip num_iterations=20")
	@$(VENV_PYTHON) orchestration/run.py $(ARGS)

study: setup ## compare 5 gates over 3 seeds at settings where they differ, 15 to 20 minutes (ARGS="gates=[softsign,clip] seeds=[0,1]")
	@$(VENV_PYTHON) -m orchestration.study experiment=separate_gates $(ARGS)

test: setup ## run every test that needs no GPU, unit tests beside the others (ARGS="-k loop", ARGS="-n 0" for one process)
	@$(VENV_PYTHON) -m pytest -n 2 $(ARGS)

test-fast: setup ## run the unit tests, without Ray, vLLM and DeepSpeed, in seconds
	@$(VENV_PYTHON) -m pytest tests/unit $(ARGS)

check: setup ## check lint, format and types
	@$(VENV_PYTHON) -m ruff check
	@$(VENV_PYTHON) -m ruff format --check
	@$(VENV_PYTHON) -m mypy

audit: setup ## list licences and known vulnerabilities of the installed packages, as information
	@$(VENV_PYTHON) scripts/audit.py

bench: setup ## measure each part against its bare counterpart
	@$(VENV_PYTHON) -m benchmarks.run $(ARGS)

bench-gates: setup ## measure the gated loss, by gate and implementation (ARGS="--no-compile --full")
	@$(VENV_PYTHON) -m gates.benchmark $(ARGS)

bench-peers: setup ## measure samples/s against TRL on the same training, in an environment of its own (ARGS="--repeats 1")
	@$(VENV_PYTHON) -m benchmarks.peers $(ARGS)

plots: setup ## draw the pictures of docs/gates.md
	@$(VENV_PYTHON) -m gates.plots $(ARGS)

clean: ## remove caches and build products; keep .venv and runs/
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . \( -path ./.venv -o -path ./.git -o -path ./runs \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
