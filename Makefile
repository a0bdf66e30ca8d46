# What a stranger needs is git, make and Python >= 3.11 with venv; everything else is put into .venv here.
#   make demo   set up, fetch the default model, ask it about a picture and about a recording
#   make test   set up and run the whole test suite
#   make attack the inputs that mean harm, up to 40 times the suite's within minutes (ATTACK=40 ATTACK_SECONDS=20 ATTACK_SEED=0)
#   make lint   style and types
#   make test-newest   the suite with the newest releases instead of the pinned ones, and what changed
#   make pins   pin the newest releases in constraints/test.txt
PYTHON ?= python3
VENV ?= .venv
NEWEST ?= .venv-newest
BIN := $(VENV)/bin
INPUTS := pyproject.toml scripts/install.py constraints/any.txt constraints/cpu.txt
EXTRAS := dev parity generate serve train say
# OMP threads: the workers of pytest-xdist already use every core; one more of them works while others wait.
THREADS := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKERS = $(shell $(BIN)/python -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
SUITE = -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test attack lint setup weights test-newest newest pins clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//; 1,7p' Makefile

demo: $(VENV)/.installed
	@$(BIN)/polymodal pull mini
	@echo; echo '$$ polymodal ask examples/cat.jpg "What animal is in the picture?"'
	@$(BIN)/polymodal ask examples/cat.jpg "What animal is in the picture?"
	@echo; echo '$$ polymodal ask examples/speech.flac "What does the speaker say?"'
	@$(BIN)/polymodal ask examples/speech.flac "What does the speaker say?"

test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory weights
	$(THREADS) $(BIN)/python $(SUITE)

attack: $(VENV)/.installed-dev
	ATTACK=$${ATTACK:-40} ATTACK_SECONDS=$${ATTACK_SECONDS:-20} $(THREADS) $(BIN)/python -m pytest -n auto -q tests/attack $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(VENV)/.installed-dev

# Tests never open the network; those that need the real weights or pictures are skipped, by name, when they are not here.
weights: $(VENV)/.installed
	@$(BIN)/polymodal pull mini || echo "The real weights could not be fetched: tests that need them will be skipped."
	@$(BIN)/polymodal pull kokoro || echo "The voices could not be fetched: tests that need them will be skipped."
	@$(BIN)/polymodal check --fetch || echo "The pictures could not be fetched: training checks on them will be skipped."

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "polymodal needs Python >= 3.11; '$(PYTHON)' is not. Try: make demo PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "This Python cannot make virtual environments (on Debian: apt install python3-venv)." >&2; exit 2; }

$(VENV)/.installed: $(VENV)/pyvenv.cfg $(INPUTS)
	$(BIN)/python scripts/install.py
	@touch $@

# With the exact versions of constraints/test.txt; what a user gets (above) has lower bounds only.
$(VENV)/.installed-dev: $(VENV)/pyvenv.cfg $(INPUTS) constraints/test.txt
	$(BIN)/python scripts/install.py --pinned $(EXTRAS)
	@touch $(VENV)/.installed $@

# An environment of its own; all but torch is upgraded at every call. The table comes below pytest's list of failures.
newest:
	@$(MAKE) --no-print-directory VENV=$(NEWEST) $(NEWEST)/pyvenv.cfg
	$(NEWEST)/bin/python scripts/install.py --newest $(EXTRAS)
	@touch $(NEWEST)/.installed

test-newest: newest
	@$(MAKE) --no-print-directory VENV=$(NEWEST) weights
	@failed=0; \
	$(NEWEST)/bin/ruff check . || failed=1; \
	$(NEWEST)/bin/mypy || failed=1; \
	$(THREADS) $(NEWEST)/bin/python $(SUITE) || failed=1; \
	echo; $(NEWEST)/bin/python scripts/pins.py changed; exit $$failed

pins: newest
	$(NEWEST)/bin/python scripts/pins.py write

clean:
	rm -rf $(VENV) $(NEWEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
