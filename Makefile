# make demo: see it work.   make test: check it all.   make: what else there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What of the package is not code: an editable install must be made anew when one of these changes.
METADATA := pyproject.toml
# Test processes that run side by side. Half of what they do is waiting for servers: three for each core do well.
PROCESSES ?= 6
# Tests start hundreds of processes: each would compile all modules again where the environment forbids to keep them.
export PYTHONDONTWRITEBYTECODE :=
PYTEST = $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --durations 10 --ignore tests/matrix --ignore tests/chaos

.PHONY: help venv demo test check services lint typing format wire screenshots docs long browsers notebook versions matrix chaos fuzz attack audit bench package clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     start a broker, a worker and a web page, and watch jobs in the browser"
	@echo "make test     install what tests need, then lint and run all tests (ARGS for pytest)"
	@echo "make check    the same without what needs a server, a worker or a browser: a minute"
	@echo "make lint     ruff, codespell, import-linter, luacheck (if it is there) and mypy"
	@echo "make format   let ruff mend what it can"
	@echo "make wire     write docs/asyncapi.yaml and the browser's types of messages from the structs"
	@echo "make screenshots  take the pictures of the example's page for README and documentation"
	@echo "make docs     build the documentation into docs/_build/html"
	@echo "make long     run the variants that make test leaves out: more hosts, brokers, seeds and versions (an hour)"
	@echo "make notebook show widgets in JupyterLab, which is installed for that (make long does it too)"
	@echo "make browsers look at pages in Firefox and in WebKit, which it installs on Debian (ARGS)"
	@echo "make versions run a part of the tests on each Python here, each Celery, and the oldest of all (VERSIONS: some; --quick)"
	@echo "make matrix   run every outcome of a job in every pool on every broker (long)"
	@echo "make chaos    kill 500 workers and servers at random, break brokers under 20,000 events, see alerts fire (20 minutes)"
	@echo "make fuzz     feed arbitrary input to all that reads what others write (FUZZ_EXAMPLES each, FUZZ_STEPS)"
	@echo "make attack   attack web servers of each kind, and measure what it costs them (half an hour; ARGS)"
	@echo "make audit    look for known holes in what this depends on (with pip-audit, if its data can be reached)"
	@echo "make celery-suite  run Celery's own integration suite with this attached, and without (half an hour; ARGS)"
	@echo "make bench    compare with python-socketio's own manager, and with no extension (minutes)"
	@echo "make package  build the wheel with its bill of materials (SBOM), check what is in it, and pack the modules for npm"
	@echo "make venv     make $(VENV) with all that contributors need"
	@echo "make clean    remove what was built"

venv: $(VENV)/.test $(VENV)/.docs

demo: $(VENV)/.demo
	@exec $(BIN)/python -m example_project.demo $(ARGS)

test:
	@$(MAKE) --no-print-directory --jobs 2 $(VENV)/.test $(NODE_MODULES)
	@$(MAKE) --no-print-directory services
	@$(MAKE) --no-print-directory --jobs 2 lint $(VENV)/.compiled
	$(PYTEST) -n $(PROCESSES) -m "not long" $(ARGS) || { test $$? -eq 1 && $(BIN)/python -m tests.tools.try_again; }

check: lint
	CELERY_TEST_SERVICES=no $(PYTEST) -n 2 -m "not long and not service" $(ARGS)

long: $(VENV)/.test
	$(BIN)/python -m tests.tools.install_services --large
	$(PYTEST) -n $(PROCESSES) -m long $(ARGS)
	@test -n "$(ARGS)" || $(MAKE) --no-print-directory notebook
	@test -n "$(ARGS)" || $(MAKE) --no-print-directory versions VERSIONS="--quick $(VERSIONS)"

notebook: services $(VENV)/notebook/.installed
	$(VENV)/notebook/bin/python -m pytest tests/browser/test_jupyterlab.py $(ARGS)

# What is not installed, and cannot be, is skipped.
browsers: $(VENV)/.test
	$(BIN)/python -m tests.tools.install_services --browsers
	$(BIN)/python -m pytest -rs tests/browser/test_other_browsers.py $(ARGS)
	CELERY_TEST_BROWSER=firefox $(BIN)/python -m pytest -rs -m "not long" -k all_components tests/browser/test_frameworks.py $(ARGS)

# Names of those to try; all by default.
VERSIONS ?=
versions: services
	@test -x $(VENV)/versions/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/versions/uv && \
	  $(VENV)/versions/uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.11,<1'; } || \
	  echo "uv cannot be installed here"
	PATH="$(CURDIR)/$(VENV)/versions/uv/bin:$$PATH" PROCESSES=$(PROCESSES) $(BIN)/python -m tests.tools.versions $(VERSIONS)

services: $(VENV)/.test
	$(BIN)/python -m tests.tools.install_services

# Beside pip, where npm is there already; where it is not, or this fails, services installs it and tries again.
NODE_MODULES = $(addsuffix /node_modules/.package-lock.json,tests/client tests/frameworks)
$(NODE_MODULES): %/node_modules/.package-lock.json: %/package-lock.json
	@! command -v npm >/dev/null || npm ci --ignore-scripts --no-audit --no-fund --prefix $* || true

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	@if command -v luacheck >/dev/null; then set -x; luacheck --quiet celery_realtime/*/scripts; \
	  else echo "luacheck is not installed (on Debian: lua-check), so the Lua scripts are not checked"; fi
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What is generated from celery_realtime/web/messages.py; a test says when it is out of date.
wire: $(VENV)/.test
	$(BIN)/python -m tests.tools.wire

screenshots: services
	$(BIN)/python -m tests.tools.screenshots

docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going docs docs/_build/html

matrix: services
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/matrix $(ARGS)

chaos: services
	$(BIN)/python -m pytest -n 2 -rP tests/chaos/test_lives.py $(ARGS)
	$(BIN)/python -m pytest tests/chaos --ignore tests/chaos/test_lives.py $(ARGS)

FUZZ_EXAMPLES ?= 2000
# Of the stories in which clients look for what is not theirs, on both kinds of servers; about 700 a second on a core.
FUZZ_STEPS ?= 100000
fuzz: services
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_STEPS=$(FUZZ_STEPS) $(BIN)/python -m pytest tests/fuzz --timeout 0 $(ARGS)

# It goes on where it was interrupted; ARGS=--table prints what there is.
attack: $(VENV)/attack/.installed
	$(VENV)/attack/bin/python -m tests.tools.install_services
	$(VENV)/attack/bin/python -m tests.attacks $(ARGS)

# In a venv of its own: it is no part of what is audited. Without it, or without its data, the list of ours is checked.
audit: $(VENV)/.test
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
	  $(VENV)/audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'; } || \
	  echo "pip-audit cannot be installed here"
	PATH="$(CURDIR)/$(VENV)/audit/bin:$$PATH" $(BIN)/python -m tests.tools.audit

# It goes on where it was interrupted; ARGS=--table prints what there is, ARGS=test_chain runs a part.
celery-suite: services
	$(BIN)/python -m tests.tools.celery_suite $(ARGS)

bench: services $(VENV)/attack/.installed
	$(VENV)/attack/bin/python -m benchmarks $(ARGS)

package: $(VENV)/.package
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tests/tools/add_sbom.py dist/*.whl
	$(BIN)/python tests/tools/check_wheel.py dist/*.whl --sbom
	@if command -v npm >/dev/null; then set -x; npm pack --silent --pack-destination dist ./celery_realtime/static; \
	  else echo "npm is not installed, so its package is not made"; fi

clean:
	rm -rf build dist docs/_build *.egg-info tests/client/node_modules tests/frameworks/node_modules tests/frameworks/next/node_modules
	rm -rf .attacks .celery-suite .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .tox
	rm -f $(VENV)/.compiled
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A venv without pip (on Debian: no python3-venv) must not pass for a venv the next time.
$(BIN)/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is incomplete. On Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.demo: $(METADATA) | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(METADATA) | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[test,lint]'
	@touch $@ $(VENV)/.demo

# pytest compiles each module of tests in its own way: once, and not in each of its processes at the same time.
$(VENV)/.compiled: $(VENV)/.test $(shell find tests -name '*.py')
	@$(PYTEST) --collect-only -qq >/dev/null 2>&1 || true
	@touch $@

# In a venv of its own: with websockets installed, uvicorn would use that in all other tests, too.
$(VENV)/attack/.installed: $(METADATA) | $(BIN)/pip
	$(PYTHON) -m venv $(VENV)/attack
	$(VENV)/attack/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,attack]'
	@touch $@

# In a venv of its own: JupyterLab brings a hundred packages, which no other test is to depend on.
$(VENV)/notebook/.installed: $(METADATA) | $(BIN)/pip
	$(PYTHON) -m venv $(VENV)/notebook
	$(VENV)/notebook/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,jupyter]'
	@touch $@

$(VENV)/.package: $(METADATA) | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[package]'
	@touch $@

$(VENV)/.docs: $(METADATA) | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@
