# `make quickstart` and `make test` do all set-up themselves; a second call installs nothing again.
VENV ?= .venv
PYTHON ?= python3
export OMP_NUM_THREADS ?= 1
# Tests start hundreds of processes: each finds the code compiled.
unexport PYTHONDONTWRITEBYTECODE

INSTALLED := $(VENV)/.installed

.PHONY: install quickstart test fast chaos lint format types bench docs reproductions clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	$(VENV)/bin/isoloss quickstart

test: install lint types
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

fast: install
	$(VENV)/bin/python -m pytest -m 'not slow'

chaos: install
	$(VENV)/bin/python -m tests.chaos.chaos --faults 500 --seed 0 --out docs/reliability-counts.json
	$(VENV)/bin/python -m tests.chaos.table

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: install
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: install
	$(VENV)/bin/mypy

bench: install
	$(VENV)/bin/python benchmarks/run.py

# The pages of the papers' studies, from what is kept of them.
reproductions: install
	$(VENV)/bin/python -m reproductions

# The site, in site/; the two references are made anew from what they document.
docs: install
	$(VENV)/bin/python -m isoloss.study.reference > docs/study-file.md
	$(VENV)/bin/python -m isoloss.cli.reference > docs/commands.md
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache quickstart site
