# Every target makes .venv itself, once per change of the pins. Only Python >= 3.11 and make are needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SPARK := .venv/.spark

.PHONY: demo test quick check bench clean

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard src/seerec/kernels/*.cpp src/seerec/kernels/*.h)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt torch setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --prefer-binary -c constraints.txt -e '.[dev]'
	@touch $@

$(SPARK): $(STAMP)  # 460 MB, which only some tests need
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --prefer-binary -c constraints.txt -e '.[spark]'
	@touch $@

demo: $(STAMP)  ## simulate, prepare, train, compare, recommend, explain: everything once, in five minutes
	$(BIN)/seerec demo --out runs/demo

test: $(SPARK)  ## everything that must hold
	$(BIN)/python tests/groups.py all

quick: $(STAMP)  ## what every commit must pass
	$(BIN)/python tests/groups.py quick

check: $(STAMP)  ## lint, format, types and import order alone
	$(BIN)/python tests/groups.py check

bench: $(STAMP)  ## measurements, not tests
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf .venv runs build dist src/*.egg-info
