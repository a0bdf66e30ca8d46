# What a stranger needs is git, make and Python >= 3.11 with venv; everything else is put into .venv here.
#   make demo   set up, fetch the default model, ask it about a picture and about a recording
#   make test   set up and run the whole test suite
#   make lint   style and types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml scripts/install.py $(wildcard constraints/*.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint setup weights clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//; 1,4p' Makefile

demo: $(VENV)/.installed
	@$(BIN)/polymodal pull mini
	@echo; echo '$$ polymodal ask examples/cat.jpg "What animal is in the picture?"'
	@$(BIN)/polymodal ask examples/cat.jpg "What animal is in the picture?"
	@echo; echo '$$ polymodal ask examples/speech.flac "What does the speaker say?"'
	@$(BIN)/polymodal ask examples/speech.flac "What does the speaker say?"

# OMP threads: the workers of pytest-xdist already use every core.
test: $(VENV)/.installed-dev weights
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(VENV)/.installed-dev

# Tests never open the network; those that need the real weights or pictures are skipped, by name, when they are not here.
weights: $(VENV)/.installed
	@$(BIN)/polymodal pull mini || echo "The real weights could not be fetched: tests that need them will be skipped."
	@$(BIN)/polymodal check --fetch || echo "The pictures could not be fetched: lessons on them will be skipped."

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "polymodal needs Python >= 3.11; '$(PYTHON)' is not. Try: make demo PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "This Python cannot make virtual environments (on Debian: apt install python3-venv)." >&2; exit 2; }

$(VENV)/.installed: $(VENV)/pyvenv.cfg $(INPUTS)
	$(BIN)/python scripts/install.py
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python scripts/install.py dev parity generate
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
