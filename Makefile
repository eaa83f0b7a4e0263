# Two commands do all the set-up; each builds the virtual environment it needs, a second run reuses it.
#   make demo   what the README shows first
#   make test   everything that CI checks

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: help demo test lint
.DELETE_ON_ERROR:

help:
	@echo "make demo   build $(VENV), install uncrate, run 'uncrate demo'"
	@echo "make test   build $(VENV) with all extras and tools, run ruff, mypy and pytest"

demo: $(VENV)/.installed
	@echo "== uncrate demo"
	@$(VENV)/bin/uncrate demo

test: lint
	@echo "== pytest"
	@$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/.installed-all
	@echo "== ruff check"
	@$(VENV)/bin/ruff check .
	@echo "== ruff format --check"
	@$(VENV)/bin/ruff format --check .
	@echo "== mypy"
	@$(VENV)/bin/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "uncrate needs Python 3.11 or newer; say which: make demo PYTHON=python3.11"; exit 1; }
	@echo "== building $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The stamps are older than pyproject.toml or constraints.txt when what is installed may no longer be what is asked for.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing uncrate, torch and the rest into $(VENV) (the first time this downloads hundreds of megabytes)"
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing uncrate with all extras and tools into $(VENV) (the first time this downloads hundreds of megabytes)"
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[all,dev]"
	@touch $@ $(VENV)/.installed
