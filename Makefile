# Every target works after `make venv`, or with PYTHON=... naming an interpreter that has the extras dev and docs.
PYTHON ?= .venv/bin/python
BIN = $(dir $(PYTHON))

.PHONY: venv demo test test-slow coverage check docs bench bench-large

venv:
	python3 -m venv .venv
	.venv/bin/pip install -c constraints.txt -e '.[all,dev,docs]'

demo:
	$(BIN)privsyn demo --out privsyn-demo --force

test:
	$(PYTHON) -m pytest

test-slow:
	$(PYTHON) -m pytest -m slow

coverage:
	$(PYTHON) -m pytest --cov --cov-report=term:skip-covered

check:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(PYTHON) -m mypy
	$(BIN)lint-imports

docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench-large:
	$(PYTHON) benchmarks/prepare.py --memory 10000 100000 1000000

bench:
	set -e; for program in dp_step training sampling prepare; do $(PYTHON) benchmarks/$$program.py; done
