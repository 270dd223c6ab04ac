# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
EXTRA ?= auto
ARGS ?=
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup train test test-fast check study bench bench-gates bench-peers plots clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv, or nothing if it is up to date (PYTHON=python3.12, EXTRA=cpu|gpu)
	@$(PYTHON) scripts/setup.py --extra $(EXTRA)

train: setup ## train, by default the embedded model on arithmetic (ARGS="gate=clip num_iterations=20")
	@$(VENV_PYTHON) orchestration/run.py $(ARGS)

study: setup ## compare 5 gates on 3 seeds where they differ, 15 to 20 minutes (ARGS="gates=[softsign,clip] seeds=[0,1]")
	@$(VENV_PYTHON) -m orchestration.study experiment=separate_gates $(ARGS)

test: setup ## every test but those that need a GPU (ARGS="-k loop")
	@$(VENV_PYTHON) -m pytest $(ARGS)

test-fast: setup ## the tests without Ray, vLLM and DeepSpeed, in seconds
	@$(VENV_PYTHON) -m pytest tests/unit $(ARGS)

check: setup ## lint, format and types
	@$(VENV_PYTHON) -m ruff check
	@$(VENV_PYTHON) -m ruff format --check
	@$(VENV_PYTHON) -m mypy

bench: setup ## measure each part against its bare counterpart
	@$(VENV_PYTHON) -m benchmarks.run $(ARGS)

bench-gates: setup ## measure the gated loss, by gate and implementation (ARGS="--no-compile --full")
	@$(VENV_PYTHON) -m gates.benchmark $(ARGS)

bench-peers: setup ## train the same with TRL, in an environment of its own: samples/s side by side (ARGS="--repeats 1")
	@$(VENV_PYTHON) -m benchmarks.peers $(ARGS)

plots: setup ## draw the gates for docs/gates.md
	@$(VENV_PYTHON) -m gates.plots $(ARGS)

clean: ## remove caches and build products; keeps .venv and runs/
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . \( -path ./.venv -o -path ./.git -o -path ./runs \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
