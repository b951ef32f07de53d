# Every task of the project. `make` alone lists them; CI calls these and nothing else.

# The first Python that is new enough; `make setup PYTHON=/path/to/python` uses another one.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
STAMP := .venv/.made-from-lock
LOCK := deploy/requirements-dev.lock
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup check test demo bench chaos run lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## .venv from the lock, every package checked against its hash

# --no-build-isolation: the build backend comes from the lock, too. The stamp is written last, so that an
# interrupted setup starts again, and one that is done costs nothing.
$(STAMP): $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv found; install one or say make setup PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

check: setup ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -p no:cacheprovider tests/test_floors.py

# Two halves side by side, since the journeys mostly wait for time to pass. The others yield to them (nice): journeys have
# seconds in what they ask for.
JOURNEYS := tests/journeys tests/chaos
OTHERS_LOG := .pytest_cache/others.log

test: setup ## all tests, on a real Kafka that they start (KAFKA_BOOTSTRAP=host:port uses another one)
	@mkdir -p $(dir $(OTHERS_LOG))
	@nice -n 10 $(BIN)/pytest -q -p no:cacheprovider $(addprefix --ignore=,$(JOURNEYS)) > $(OTHERS_LOG) 2>&1 & others=$$!; \
	trap "wait $$others; exit 130" INT; trap "kill $$others; exit 143" TERM; \
	$(BIN)/pytest -q $(JOURNEYS); ended=$$?; \
	wait $$others || ended=$$?; \
	echo "--- the others, beside them:"; cat $(OTHERS_LOG); exit $$ended

demo: setup ## sixteen events through a local Kafka and a local Gigya, and what became of each
	@$(BIN)/gigya-worker demo

bench: setup ## figures on a real broker: CPU, quota, latency, memory; after an outage, kill -9, by number of users
	$(BIN)/python -m tests.benchmarks

chaos: setup ## everything that can break, broken, with an oracle (CHAOS_S=seconds in all, SEED=n, ONLY=schedule)
	$(BIN)/python -m tests.chaos $(if $(CHAOS_S),--seconds $(CHAOS_S)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

run: setup ## the worker, with worker.yaml of this directory
	$(BIN)/gigya-worker run

# In an environment of its own, so that the tool is not among what it locks.
lock: ## the lock files anew, from pyproject.toml
	test -x .cache/lock/bin/pip-compile || { $(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet pip-tools==7.6.2; }
	CUSTOM_COMPILE_COMMAND="make lock" .cache/lock/bin/pip-compile $(LOCK_OPTIONS) --extra dev --extra sandbox --output-file $(LOCK) pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" .cache/lock/bin/pip-compile $(LOCK_OPTIONS) --constraint $(LOCK) --output-file deploy/requirements.lock pyproject.toml

LOCK_OPTIONS := --quiet --generate-hashes --strip-extras --allow-unsafe --build-deps-for wheel --build-deps-for editable \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

clean: ## remove .venv and everything that was made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find worker tests -name __pycache__ -type d -prune -exec rm -rf {} +
