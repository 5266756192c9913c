# Every target sets up what it needs, from a fresh clone on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all bench lint clean

demo: $(READY)  ## the default run: digits, ResNet-20, W2A2, Bin Regularization
	WANDB_MODE=offline $(BIN)/python -m brsweep.train

test: $(READY)  ## the tests that need no system package
	$(BIN)/python -m pytest -m "not slow and not system"

test-all: $(READY)  ## those, and the slow and system ones, each skipped with its reason where it can't run
	$(BIN)/python -m pytest -rs

bench: $(READY)  ## whole training steps against the float step: minutes; wants a machine that does nothing else
	$(BIN)/python -m benchmarks.step

lint: $(READY)
	$(BIN)/python -m ruff check .

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV)
