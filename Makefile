# Every target does its own set-up: on a fresh machine nothing but Python 3.10+ is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 3600
INSTALLED := $(VENV)/.installed

.PHONY: demo test fuzz lint docs clean

demo: $(INSTALLED)  ## convert, verify and inspect the embedded example
	rm -rf build/demo && mkdir -p build/demo
	$(BIN)/apot-export convert examples/digits/res8_4bit/model_best.pth.tar -o build/demo/res8_4bit
	$(BIN)/apot-export verify build/demo/res8_4bit --dataset digits
	$(BIN)/apot-export inspect alphas build/demo/res8_4bit

test: $(INSTALLED)  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

fuzz: $(INSTALLED)  ## look for inputs that crash a reader, for SECONDS, from the corpus in build/fuzz
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation as a site, in build/site
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site

clean:
	rm -rf $(VENV) build

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)
