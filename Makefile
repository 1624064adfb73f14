# Everything that a checkout needs, from a machine that has Python 3.11, pip and make.
# `make help` lists the targets. The environment lives in .venv of the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test mutants check faults soak docs bench bench-gateway bench-routing bench-credentials prices lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := $(BIN)/uv
# uv prefers the environment it is told about over the one it is started from.
export VIRTUAL_ENV := $(CURDIR)/.venv
export UV_NO_PROGRESS := 1
# Tests start many processes: let them find the bytecode of the first.
unexport PYTHONDONTWRITEBYTECODE

# Stamps: a step runs again only when the file it depends on has changed.
BOOTSTRAPPED := .venv/.bootstrapped
INSTALLED := .venv/.installed
LINKED := .venv/.linked
LOCAL := .venv/.local

# uv is many times faster than pip; pip is the fallback where only pip knows the way to the packages.
install = $(UV) pip install --quiet $(1) || $(BIN)/python -m pip install --quiet $(1)

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(LINKED) ## create .venv with the locked packages and attune itself, editable

$(BOOTSTRAPPED): requirements/bootstrap.txt
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

$(INSTALLED): requirements/dev.txt $(BOOTSTRAPPED)
	$(call install,--require-hashes -r $<)
	touch $@

$(LINKED): pyproject.toml $(INSTALLED)
	$(call install,--no-deps --no-build-isolation --editable .)
	touch $@

$(LOCAL): requirements/local.txt $(LINKED)
	$(call install,--require-hashes --no-deps -r $<)
	touch $@

demo: $(LOCAL) ## run `attune demo` with the embedded model
	$(BIN)/attune demo

# At their larger sizes the fault tests take longer than a test that hangs may.
unhurried = -o faulthandler_timeout=0

test: $(LOCAL) ## run all tests; fail below the coverage that tools/check_coverage.py asks for
	mkdir -p .make
	$(BIN)/python -m pytest -v -n 2 --dist loadfile --cov --cov-report=json:.make/coverage.json
	$(BIN)/python tools/check_coverage.py .make/coverage.json

mutants: $(LINKED) ## change the failure pipeline one small thing at a time; fail where under 95 % are found
	$(BIN)/python tools/mutants.py

check: $(LINKED) ## lint, format, types, layers, secrets and traces of a machine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_secrets.py

bench: $(LINKED) ## measure calls, decisions, start-up and the ledger, beside peers (installs them: 900 MB)
	$(BIN)/python benchmarks/decision.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/call.py

bench-gateway: $(LINKED) ## measure the gateway on nginx with wrk, beside peers (installs them: 700 MB)
	$(BIN)/python benchmarks/gateway.py

# The folder with the public tables; docs/how-to/simulate.md says where they are from.
DATA ?=

bench-routing: $(LINKED) ## measure the learned policies on the public tables in DATA=DIR; takes most of an hour
	@test -n "$(DATA)" || { echo "bench-routing: say where the tables are, make bench-routing DATA=DIR; docs/how-to/simulate.md tells how to get them" >&2; exit 2; }
	$(BIN)/python benchmarks/routing.py --data "$(DATA)"

bench-credentials: $(LINKED) ## simulate a month of three kinds of user: what each way to choose who pays comes to
	$(BIN)/python benchmarks/credentials.py

faults: $(LOCAL) ## print what every kind of fault comes to; run the fault tests at their larger size
	$(BIN)/python tools/fault_matrix.py
	ATTUNE_SCALE=faults $(BIN)/python -m pytest $(unhurried) -n 2 --dist loadfile tests/faults tests/gateway/test_gateway_tenants.py

soak: $(LOCAL) ## run the fault tests at their largest: 100,000 calls, 10,000 kills; most of an hour
	ATTUNE_SCALE=soak $(BIN)/python -m pytest $(unhurried) -n 2 --dist loadfile -rP tests/faults tests/gateway/test_gateway_tenants.py

docs: $(LINKED) ## write docs/reference/what-happens-when.md anew from the fault matrix
	$(BIN)/python tools/fault_matrix.py --write

prices: $(LINKED) ## write prices.json anew from the installed price data
	$(BIN)/python tools/make_prices.py

# UPGRADE=1 takes newer versions; without it, pins that still satisfy their ranges stay.
compile = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) $(1)

lock: $(BOOTSTRAPPED) ## write requirements/*.txt anew (UPGRADE=1: with newer versions)
	$(call compile,requirements/bootstrap.in -o requirements/bootstrap.txt)
	$(call compile,pyproject.toml -o requirements/runtime.txt)
	$(call compile,pyproject.toml requirements/dev.in -o requirements/dev.txt)
	$(call compile,--no-deps requirements/local.in -o requirements/local.txt)

clean: ## remove the environment and everything that was built or cached
	rm -rf .venv .make .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
