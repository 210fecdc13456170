# `make demo` and `make test` do all set-up themselves: they need Python (3.10 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test workers share the cores; torch's own threads on top of them would only fight.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
HOOK := --jaxtyping-packages=torchops,typechecking.check

.PHONY: demo test test-full lint bench notebooks clean

# One stamp per set of extras: a second `make` finds it newer than pyproject.toml and installs nothing.
$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.%: pyproject.toml | $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/torchops demo --out demo_output

test: $(VENV)/.dev
	$(PYTEST) $(HOOK) -m "not slow and not unhooked"
	$(PYTEST) -m "not slow and unhooked"

test-full: $(VENV)/.dev
	$(PYTEST) $(HOOK) -m "not unhooked"
	$(PYTEST) -m unhooked

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/harness.py

notebooks: $(VENV)/.notebooks
	$(BIN)/python -m jupyter execute --inplace notebooks/*.ipynb

clean:
	rm -rf $(VENV) demo_output .pytest_cache .ruff_cache .mypy_cache
