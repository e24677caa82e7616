# The project's few verbs. `make` says what they are. Each works from a bare checkout: it makes .venv/ from a lock file first.
# Settings: PYTHON=python3.12 (which interpreter), ARGS="-k name" (further words for the command behind the verb).

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime.stamp
DEVELOPMENT := $(VENV)/.development.stamp
LOCKS := requirements-dev.lock requirements.lock requirements-runtime.lock requirements-pip.lock tests/clients/requirements.lock

.DEFAULT_GOAL := help
.PHONY: help demo test run bench simulate crash-matrix chaos mutants pressure restart audit-speed lint audit docs docs-site kubernetes coverage packages release lock clean
.DELETE_ON_ERROR:

help: ## say all this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo 'settings: PYTHON=python3.12: the interpreter (3.11 or newer; taken when .venv/ is made: make clean first)'
	@echo '          ARGS="--keep": further words for the command behind the verb'

demo: $(RUNTIME) ## embedded PostgreSQL and broker, the whole system, an order for every outcome, one told live, the audit
	@$(BIN)/order-saga demo $(ARGS)

test: $(DEVELOPMENT) ## all tests, most of an hour on two cores (ARGS=tests/order_saga/core: a minute), on Apache Kafka and PostgreSQL where Docker or KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL give them
	@$(BIN)/python -m pytest $(ARGS)

run: $(RUNTIME) ## the system on this machine until Ctrl-C, its data in .local/
	@$(BIN)/order-saga up $(ARGS)

bench: $(DEVELOPMENT) ## the benchmark, as ratios (ARGS="rate", ARGS="all --record", ARGS=--help)
	@$(BIN)/python -m tests.bench $(ARGS)

lint: $(DEVELOPMENT) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# What each of these did when it was last run in full stands in docs/evidence.md; ARGS="--record" writes it there.
N ?= 10000
simulate: $(DEVELOPMENT) ## N simulated histories with faults of every kind, from one seed (N=100000 SEED=7)
	@$(BIN)/python -m tests.evidence.simulation --histories $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

crash-matrix: $(DEVELOPMENT) ## a process killed at every point of its work, under every type of message
	@$(BIN)/python -m tests.evidence.crash_matrix $(ARGS)

KILLS ?= 100
SCHEDULED = tests.evidence.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED))
chaos: $(DEVELOPMENT) ## real processes under load while they and their servers are killed, frozen and cut off (KILLS=100 SEED=7); PLAY=all: a rolling upgrade, scaling, a lost and a frozen node
	@$(BIN)/python -m $(if $(PLAY),tests.evidence.chaos.cluster $(PLAY),$(SCHEDULED)) $(ARGS)

MINUTES ?= 10
pressure: $(DEVELOPMENT) ## a participant away for MINUTES under load, and a flood of unreadable messages, measured
	@$(BIN)/python -m tests.evidence.pressure --minutes $(MINUTES) $(ARGS)

restart: $(DEVELOPMENT) ## a rolling restart of everything under load: how long the slowest order takes
	@$(BIN)/python -m tests.evidence.restart $(ARGS)

ORDERS ?= 1000000
audit-speed: $(DEVELOPMENT) ## an audit of ORDERS orders: how long it takes, and what it needs
	@$(BIN)/python -m tests.evidence.audit_speed --orders $(ORDERS) $(ARGS)

mutants: $(DEVELOPMENT) ## deliberate defects in the protocol, and the test that catches each
	@$(BIN)/python -m tests.evidence.mutants $(ARGS)

# --strict: what the service does not know is no "nothing known".
audit: $(DEVELOPMENT) ## known vulnerabilities of what the lock files pin (asks a service on the network), and secrets in tracked files
	@$(BIN)/python -m pytest -q tests/test_secrets.py
	@$(BIN)/pip-audit --requirement requirements-dev.lock --require-hashes --disable-pip --strict --progress-spinner off || { echo \
	  "make audit: FAILED, see above: a dependency has a known vulnerability, or the service that knows them could not tell" >&2; exit 1; }

docs: $(DEVELOPMENT) ## generate what docs/ takes from the code
	@$(BIN)/python -m docs.generate.contracts
	@$(BIN)/python -m docs.generate.openapi
	@$(BIN)/python -m docs.generate.client
	@$(BIN)/python -m docs.generate.saga
	@$(BIN)/python -m docs.generate.pictures
	@$(BIN)/python -m docs.generate.settings
	@$(BIN)/python -m docs.generate.topics
	@$(BIN)/python -m docs.generate.chart
	@$(BIN)/python -m docs.generate.dashboards
	@$(BIN)/python -m tests.evidence.record
	@$(BIN)/python -m tests.bench.page
	@$(BIN)/python -m tests.bench.scaling
	@$(BIN)/python -m tests.docs.transcripts

docs-site: $(DEVELOPMENT) ## the documentation as a site in build/site/, which needs no other host (ARGS="--serve 8080": shows it)
	@$(BIN)/python -m docs.generate.site $(ARGS)

# Where neither KUBEBUILDER_ASSETS nor KUBECONFIG is set, the tests that need an API server say so at the end.
kubernetes: $(DEVELOPMENT) ## the Helm chart: its manifest in deploy/ again, and its tests, with Helm, promtool and an API server
	@$(BIN)/python -m docs.generate.kubernetes
	@$(BIN)/python -m pytest tests/deploy/kubernetes tests/deploy/monitoring $(ARGS)

coverage: $(DEVELOPMENT) ## every branch of contracts/ and order_saga/core/ is taken by their own tests
	@$(BIN)/python -m pytest -q tests/contracts tests/order_saga/core --cov=contracts --cov=order_saga.core --cov-branch --cov-fail-under=100 $(ARGS)

packages: $(DEVELOPMENT) ## the packages order-saga, saga-kit, order-saga-client and order-saga-contracts, in dist/
	@$(BIN)/python -m deploy.release.packages dist

CHECKS ?= lint test
IMAGE ?= yes
release: $(DEVELOPMENT) ## a release: checks, changelog, version, packages, image, bill of materials, tag (VERSION=0.3.0 ARGS=--dry-run)
	@$(BIN)/python -m deploy.release "$(VERSION)" --checks "$(CHECKS)" --image "$(IMAGE)" $(ARGS)

# The widest set first; the others are held to its versions. UPGRADE=--upgrade takes newer versions than the lock files have.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links $(OURS) --custom-compile-command "make lock" $(UPGRADE)
OURS = --no-emit-package order-saga-contracts --no-emit-package saga-kit --no-emit-package order-saga-client
SERVICES = --extra api --extra worker --extra webhooks --extra cli
lock: $(DEVELOPMENT) ## make the lock files again (UPGRADE=--upgrade: with the newest versions)
	$(COMPILE) pyproject.toml --all-extras --group build --group dev --group docs --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml $(SERVICES) --extra local --group build --constraint requirements-dev.lock --output-file requirements.lock
	$(COMPILE) pyproject.toml $(SERVICES) --extra otel --group build --constraint requirements-dev.lock --output-file requirements-runtime.lock
	$(COMPILE) --group installer --constraint requirements-dev.lock --output-file requirements-pip.lock
	$(COMPILE) --group clients --output-file tests/clients/requirements.lock
	@if grep -n '://' $(LOCKS); then echo "make lock: a lock file names a host" >&2; exit 1; fi

clean: ## remove .venv/ and what the tools left behind (not .local/, which is data)
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment is good for as long as its lock file and pyproject.toml do not change. Which versions it gets is
# decided by the lock files alone: the machine's pip only installs the pip that requirements-pip.lock names, and that one
# installs what the lock file lists and looks for nothing else (--no-deps): a lock file is complete, and a pip that resolves
# it again may prefer a later release or refuse it. pip, so that the index and certificates that are set up for pip hold; only
# `user = true`, which some set up for it and no virtual environment can follow, does not.
PIP = PIP_USER=0 $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps
INSTALL = $(PIP) --require-hashes -r requirements-pip.lock && $(PIP) --require-hashes -r
INSTALL_PROJECT = $(PIP) --no-build-isolation --editable .

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: there is no '$(PYTHON)'; install Python 3.11 or newer, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: %s is Python %d.%d, 3.11 or newer is needed; name another: make PYTHON=python3.12 ..." % ((sys.executable,) + sys.version_info[:2]))'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "make: a virtual environment in $(VENV)/ ..."
	@"$(PYTHON)" -m venv $(VENV)

$(RUNTIME): requirements.lock requirements-pip.lock pyproject.toml | $(BIN)/python
	@echo "make: installing requirements.lock ..."
	@$(INSTALL) requirements.lock
	@$(INSTALL_PROJECT)
	@touch $@

$(DEVELOPMENT): requirements-dev.lock requirements.lock requirements-pip.lock pyproject.toml | $(BIN)/python
	@echo "make: installing requirements-dev.lock ..."
	@$(INSTALL) requirements-dev.lock
	@$(INSTALL_PROJECT)
	@touch $(RUNTIME) $@
