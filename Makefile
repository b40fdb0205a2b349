# Development. To install swarmbus: ./install.sh

BUILD := build
VENV := $(BUILD)/venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHELL_SCRIPTS := install.sh .ci/run $(wildcard scripts/*.sh templates/rescue/*.sh)
PYTEST := $(BIN)/python -m pytest
# A file's tests stay together, as they share what took seconds to make; the longest files are named first.
# (xdist 3.8's --dist loadgroup does not group under pytest 9.)
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# pip and git would be led astray by the environment of an agent or an editor.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

.DEFAULT_GOAL := help
.PHONY: help test lint test-agents test-hosts bench mosquitto venv clean always

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: lint mosquitto ## Lint, types, unit tests, tests on a real mosquitto, packaging, documentation
	$(PYTEST) -q $(IN_PARALLEL) --ignore=tests/hosts --ignore=tests/agents tests/test_install_sh.py tests/test_packaging.py tests
	@echo "not run here: programs from npm (make test-agents), booted hosts (make test-hosts, as root), make bench"

lint: venv ## ruff, mypy, pyright, shellcheck
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/python -m mypy --no-error-summary
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

test-agents: venv mosquitto ## The tests with programs from npm: MCP clients (kept in ~/.cache/swarmbus-tests)
	$(PYTEST) -q tests/agents

test-hosts: venv ## The tests on booted Debian hosts (root; builds them once, in ~/.cache/swarmbus-tests)
	scripts/lab-setup.sh >&2
	$(PYTEST) -q $(IN_PARALLEL) tests/hosts

bench: venv mosquitto ## Measure, and write docs/benchmarks.md
	$(BIN)/python -m tests.bench

mosquitto: venv ## A mosquitto for the tests, where none is installed
	@scripts/dev-mosquitto.sh $(BUILD)/mosquitto $(BIN)/python

venv: $(READY) ## build/venv, with swarmbus and all development tools

# $(wildcard) follows the link: an environment whose interpreter has gone is made again.
$(READY): pyproject.toml scripts/dev-venv.sh $(if $(wildcard $(BIN)/python),,always)
	scripts/dev-venv.sh $(VENV)
	@touch $@

clean: ## Remove what was built here (not the cache of hosts)
	rm -rf $(BUILD) dist .mypy_cache .ruff_cache .pytest_cache
