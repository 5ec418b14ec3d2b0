# Two commands for a new machine with Python 3.11 and make:  make demo   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Half of a test is waiting: two processes for each core.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports unit root soak deep bench audit format docs images clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "image-sync needs Python 3.11 or newer; say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## the whole job on images/, against the embedded server, in about a minute
	@$(BIN)/image-sync demo

.PHONY: demo-detection
demo-detection: $(VENV)/.installed  ## the same with boxes: a model learns to find what is on metal plates
	@$(BIN)/image-sync demo --detection

test: lint types imports unit  ## everything CI checks

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

unit: $(VENV)/.installed
	$(BIN)/pytest -n $(WORKERS) tests

root: $(VENV)/.installed  ## the tests that need root: sudo make root
	$(BIN)/pytest -n $(WORKERS) -m root tests

soak: $(VENV)/.installed  ## hours of bad luck in minutes: make soak SOAK='--seed 7'
	$(BIN)/python tests/faults/soak.py $(SOAK)

deep: $(VENV)/.installed  ## the long forms of the fault and property tests: thousands of examples, every system call
	HYPOTHESIS_PROFILE=deep IMAGE_SYNC_SOAK=1 $(BIN)/pytest -n $(WORKERS) --timeout 7200 tests/property tests/faults

bench: $(VENV)/.installed  ## speed beside others, in one table: make bench BASE=old.json BENCH='--only backlog --json new.json'
	$(BIN)/python tests/benchmarks/bench.py $(if $(BASE),--base $(BASE)) $(BENCH)

audit: $(VENV)/.installed  ## known faults of the packages we use; needs the public advisory service
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python tests/faults/audit.py

format: $(VENV)/.installed  ## let ruff format and fix, and fill the tables in docs/
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tests/docs/test_pages.py

docs: $(VENV)/.installed  ## build the pages in docs/ as a site in build/docs, to read without network
	$(BIN)/zensical build --strict --clean

images: $(VENV)/.installed  ## draw the pictures in images/ anew
	$(BIN)/python images/make_images.py
	PYTHONPATH=tests $(BIN)/python -m support.plates images/_plates

clean:  ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .cache build dist
