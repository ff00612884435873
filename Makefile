# make demo and make test work on a fresh clone with Python 3.11 or newer, and nothing else.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHONS := python3 .ci/pythons.py
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
OUTSIDE := .venv-outside
NODE := .outside-node
STAMP := installed.stamp
ON_NEWEST := tests/unit tests/conformance tests/examples $(wildcard tests/integration/test_[bdpr]*.py)

.PHONY: help demo shop test check house bench faults docs outside clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 10

$(VENV)/$(STAMP): pyproject.toml
	@echo "installing into $(VENV), once: a minute or two"
	$$($(PYTHONS) oldest) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev --editable '.[cli,crypto,otel,prometheus,testing,postgres,sqlalchemy,kafka,rabbit]'
	touch $@

$(NEWEST)/$(STAMP): pyproject.toml
	$$($(PYTHONS) newest) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet --group dev --editable '.[cli,crypto,otel,prometheus,testing,postgres,sqlalchemy,kafka,rabbit]'
	touch $@

$(OUTSIDE)/$(STAMP): tests/outside/requirements.txt
	$$($(PYTHONS) oldest) -m venv $(OUTSIDE)
	$(OUTSIDE)/bin/python -m pip install --quiet --requirement tests/outside/requirements.txt
	touch $@

$(NODE)/$(STAMP): tests/outside/foreign/package.json
	npm --version > /dev/null  # Node 20 or newer, of the machine
	mkdir -p $(NODE) && cp $< $(NODE)
	npm install --prefix $(NODE) --silent --no-audit --no-fund --ignore-scripts
	touch $@

demo: $(VENV)/$(STAMP)  ## the order book on SQLite: no service needed
	$(BIN)/python -m examples.order_book $(CSV)

BROKER := kafka
SHOP_kafka = $$EVENTBUS_TEST_KAFKA_URL?provision=true&partitions=6
SHOP_rabbit = $$EVENTBUS_TEST_RABBIT_URL
shop: $(VENV)/$(STAMP)  ## the order book as processes, on PostgreSQL with BROKER=kafka or rabbit
	@services=$$($(BIN)/python -m eventbus.testing.services up postgres $(BROKER)) && eval "$$services" && \
	$(BIN)/python -m examples.order_book --transport "$(SHOP_$(BROKER))" --storage "$$EVENTBUS_TEST_POSTGRES_URL" $(CSV)

WORKERS := --numprocesses=2 --dist=worksteal  # they share one of each service
test: check $(NEWEST)/$(STAMP)  ## everything, on the oldest and the newest Python found
	$(BIN)/python -m pytest --eventbus-require=postgres,rabbit,kafka $(WORKERS)
	$(NEWEST)/bin/python -m pytest --eventbus-require=postgres,rabbit,kafka $(WORKERS) $(ON_NEWEST)

check: $(VENV)/$(STAMP)  ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry .
	$(BIN)/mypy
	$(BIN)/pyright

house: $(VENV)/$(STAMP)  ## proportion: the longest files and functions
	$(BIN)/python .ci/proportion.py

bench: $(VENV)/$(STAMP)  ## speed and memory, beside peers and raw loops
	$(BIN)/python -m benchmarks

MATRIX := build/fault-matrix.json
faults: $(VENV)/$(STAMP)  ## the full tier: every row of the fault matrix, every crash point and mutant; hours
	EVENTBUS_FAULTS=full $(BIN)/python -m pytest --eventbus-require=postgres,rabbit,kafka --timeout=3600 \
	  --fault-matrix=$(MATRIX) tests/faults $$($(BIN)/python -m tests.faults.matrix)

outside: $(VENV)/$(STAMP) $(OUTSIDE)/$(STAMP) $(NODE)/$(STAMP)  ## foreign clients read what we write, and write what we read
	$(BIN)/python -m pytest tests/unit/words tests/unit/kafka tests/unit/rabbit -k sdk
	$(BIN)/python -m tests.outside.tools
	$(BIN)/python -m pytest tests/outside --eventbus-require=postgres,rabbit,kafka

docs: $(VENV)/$(STAMP)  ## links and code blocks of the documentation
	$(BIN)/python -m pytest tests/docs

clean:
	rm -rf $(VENV) $(NEWEST) $(OUTSIDE) $(NODE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
