# `make mnist` and `make test` set up what they need on a fresh machine: the environment .venv beside this file,
# installed once and again only when pyproject.toml changes.

PYTHON ?= python3
ARGS ?=
TEST_ARGS ?=

PY := .venv/bin/python

.PHONY: help mnist check test test-all lint docs clean

help:
	@echo 'make mnist                train on MNIST                     (options: make mnist ARGS="--help")'
	@echo 'make test                 ruff, mypy and pytest              (options: make test TEST_ARGS="-k adam")'
	@echo 'make check                the same with a sample of each table of tests, without Triton, compilers,'
	@echo '                          processes, benchmarks and the tests of torch itself'
	@echo 'make test-all             the same with all that is slow'
	@echo 'make docs                 the documentation, in build/docs/html'
	@echo 'make clean                remove .venv and caches'
	@echo 'make PYTHON=python3.12 …  make .venv with this Python (default: python3)'

mnist: .venv/.installed
	@$(PY) benchmarks/mnist.py $(ARGS)

# Two processes share the tests, file by file; threads that wait for work leave the cores to the other process.
PYTEST := OMP_WAIT_POLICY=passive $(PY) -m pytest -n 2 --dist loadfile

check: lint
	@$(PYTEST) -m "not slow and not needs_interpreter and not processes and not compiles" --sample \
		--ignore tests/benchmarks --ignore-glob '*/test_torch_suite.py' $(TEST_ARGS)

test: lint
	@$(PYTEST) -m "not slow" $(TEST_ARGS)

test-all: lint
	@$(PYTEST) $(TEST_ARGS)

lint: .venv/.installed
	@$(PY) -m ruff check
	@$(PY) -m mypy

docs: .venv/.docs
	@$(PY) docs/build.py
	@echo 'The documentation is in build/docs/html/index.html'

.venv/.docs: .venv/.installed
	@echo 'Installing Sphinx into .venv (once)'
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The stamp is written last, so an interrupted installation is taken up again by the next call.
.venv/.installed: pyproject.toml
	@echo 'Installing torch_lecture_ops and its tools into .venv (once; downloads PyTorch if needed)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
