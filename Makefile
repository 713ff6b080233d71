# One command each: see the demo, run the tests, check the style and the types.
# VENV names the virtual environment; it is made when it is not there.
VENV ?= .venv
PYTHON ?= python3
N ?= 3

BIN := $(abspath $(VENV))/bin
PACKAGES := configs rounds models orchestrator
# The engine closes Ray to other machines before anything imports it: its tests need a process that has not.
OF_RAY := tests/orchestrator/engine/test_ray_engine.py

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint style types bench bench-rounds docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1  \2/p' Makefile

demo: $(VENV)/.installed ## three rounds on generated cells, then the leaderboard
	$(BIN)/cellsemi round --n $(N)

test: $(VENV)/.installed-test ## the test suite, without the slow tests
	$(BIN)/python -m pytest $(OF_RAY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --ignore=$(OF_RAY) $(PYTEST_OPTIONS)

slow: $(VENV)/.installed-test ## only the slow tests: minutes each
	$(BIN)/python -m pytest -m slow

lint: style types ## style and types

style: $(VENV)/.installed-lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# mypy follows folders, not setup.cfg: the links give the packages the names that they are imported by.
types: $(VENV)/.installed-lint
	mkdir -p .lint/cellsemi
	for part in $(PACKAGES); do ln -sfn ../../$$part .lint/cellsemi/$$part; done
	for part in __init__.py py.typed; do ln -sfn ../../cellsemi/$$part .lint/cellsemi/$$part; done
	cd .lint && MYPYPATH=. $(BIN)/python -m mypy --config-file ../pyproject.toml cellsemi

bench: $(VENV)/.installed ## every benchmark but rounds.py and neurons.py, one after another
	set -e; for script in $$(grep -l __main__ benchmarks/*.py | grep -v -e /rounds.py -e /neurons.py); do echo "== $$script"; $(BIN)/python $$script; done

# Hours: hundreds of fits. Called again it goes on where it stopped.
bench-rounds: $(VENV)/.installed ## the benchmarks of the rounds, with parts switched off: hours
	$(BIN)/python benchmarks/rounds.py --ablate
	$(BIN)/python benchmarks/neurons.py

docs: $(VENV)/.installed ## write the settings, the commands and the Python reference of docs/ anew
	$(BIN)/python docs/make_config.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_gallery.py

clean: ## remove what the checks left behind, not the runs and not the environment
	rm -rf .lint .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch and torchvision come in one command: the one must be built for the other.
$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

$(VENV)/.installed-lint: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[lint]'
	touch $@
