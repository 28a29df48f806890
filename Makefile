# Two commands set everything up: `make demo` and `make test`. They need Python 3.11 or newer, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test browser torchvision clean

demo: $(INSTALLED)
	$(BIN)/tersenet compress digits_cnn --data digits --train-epochs 30 --recipe he2018 --max-macs-ratio 0.4 \
		--trials 60 --finetune-epochs 15 --controls uniform,random --seed 0 --out runs/demo

test: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

# `make test` opens the report in a browser where one is found; this installs one first.
browser: $(INSTALLED)
	scripts/install-browser
	$(BIN)/python -m pytest -q tests/report/test_report_browser.py

# One classifier of each of torchvision's families; the library is downloaded into a temporary folder where it is missing.
torchvision: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m torchvision tests/graph/test_graph_torchvision.py

# torch is installed by itself, before anything that depends on it, so that the pinned build is the one that stays.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("tersenet needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build
