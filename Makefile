# make demo    install into .venv and run `cellwright compare` on the bundled data: report.html
# make test    install into .venv, then lint, type check and all tests, one in a browser
# make bench   time Cellwright against torch.nn
# make lint    lint and type check alone
# make clean   remove .venv and every cache
#
# Variables: PYTHON (interpreter that makes .venv), WORKERS (test processes), ARGS (passed to demo
# and bench). pip's own settings hold, for example
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu for a torch without CUDA.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test browser bench lint clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# The stamp is written last: an interrupted install is made again, a finished one never.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Cellwright needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments. Install its venv package" \
	    "(Debian, Ubuntu: apt install python3-venv) or name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/cellwright compare $(ARGS)

test: lint browser
	$(BIN)/python -m pytest -q -n $(WORKERS)

# The report's test needs a browser; a fresh Debian machine, as CI has it, gets one here.
browser:
	@found=; \
	for name in chromium chromium-browser google-chrome; do \
	  if command -v $$name >/dev/null; then found=$$name; fi; \
	done; \
	if [ -n "$$found" ] && command -v chromedriver >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium and chromium-driver for the report's test"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends chromium chromium-driver; } >/dev/null && exit 0; \
	fi; \
	echo "note: without chromium and chromedriver the report's browser test is skipped" \
	  "(Debian: apt install chromium chromium-driver)" >&2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
