# Every target sets up what it needs, from a fresh clone on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all bench lint clean

demo: $(READY)  ## the default run: digits, ResNet-20, W2A2, Bin Regularization
	WANDB_MODE=offline $(BIN)/python -m brsweep.train

test: $(READY)  ## the tests that need no system package, on all cores: threads of torch's own would stand in their way
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n auto --dist worksteal -m "not slow and not system"

test-all: test  ## those, and the slow and system ones, two files at a time, each skipped with its reason where it can't run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n 2 --dist loadfile --durations 30 -m "slow or system"

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
