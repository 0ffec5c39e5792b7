# SPDX-License-Identifier: LGPL-2.1-or-later
#
# `make` lists the targets.  None but deps installs a package of the distribution; most make .venv first, a virtual
# environment with the tools of packaging/requirements-test.txt.

# The distribution's interpreter: it is the one that sees libvirt and sanlock.
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin

# REQUIRE=1 turns a missing precondition of a test from a skip into a failure.
REQUIRE ?= 0
export SANLOCK_HELPER_REQUIRE = $(REQUIRE)

PREFIX ?= /usr/local
DESTDIR ?=
# rpmbuild's work, and what comes out of it.
DIST := dist
# Options for rpmbuild: --nodeps where the distribution's packages are no RPMs.
RPMBUILD_OPTIONS ?= $(shell rpm -q rpm >/dev/null 2>&1 || echo --nodeps)

# The targets named together are made in that order, also with -j: `make deps test`.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help deps demo test coverage unit fuzz integration e2e modular faults model mutants chaos packaging bench matrix lint pure man clean source srpm rpm deb install uninstall

# What stands behind a target and two number signs.
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9 ]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what the program and its tests need, with apt or dnf; root
	@packaging/dependencies test

$(VENV)/.done: packaging/requirements-test.txt packaging/dependencies packaging/newer-sanlock packaging/newer-glib
	@packaging/dependencies --check test || echo "tests that need these are left out; REQUIRE=1 makes them fail"
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r packaging/requirements-test.txt
	@packaging/newer-sanlock $(VENV)/sanlock || echo "no newer sanlock was had: the test that needs one is left out"
	@packaging/newer-glib $(VENV)/glib || echo "no newer GLib was had: the test that needs one is left out"
	@touch $@

demo: ## all four actions on libvirt's embedded test driver, the state shown before and after
	@packaging/dependencies --check run
	@tests/demo

# All random examples; see tests/unit/examples.py.
test: export SANLOCK_HELPER_EXAMPLES = full
test: $(VENV)/.done lint pure man ## lint, unit, integration, e2e but the long ones, the oldest and newest Python; root
	@tests/both

# What runs on a real stack is not measured.  It takes more than twice as long with it.
coverage: $(VENV)/.done ## the lines and branches of the program that the unit and integration tests miss
	rm -f .coverage*
	$(BIN)/coverage run -m pytest -q -n 3 tests/unit tests/integration
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Without byte code each worker compiles all tests and all of the program in each run: 3 s of processor time.  A third
# of the time of the tests is waiting, for clocks and threads of their own, and for fsync(): none in memory.
unit: export PYTHONDONTWRITEBYTECODE =
unit: export PYTEST_DEBUG_TEMPROOT = /dev/shm
unit: $(VENV)/.done ## the tests of the modules, with fewer random examples than `make test`; no root
	$(BIN)/pytest -n $$(($$(nproc) + 2)) -o tmp_path_retention_policy=none --durations=10 tests/unit

# Coverage-guided where pip has atheris for this Python, else by hypothesis.  SECONDS are for all TARGETS together;
# they are listed in tests/fuzz/targets.py.
SECONDS := 600
TARGETS :=
fuzz: $(VENV)/.fuzz ## search for inputs that a parser cannot bear: SECONDS=, TARGETS=; no root
	PYTHONPATH=helper:auth:. $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

$(VENV)/.fuzz: $(VENV)/.done
	@$(BIN)/pip install --quiet --disable-pip-version-check 'atheris==3.*' || echo "no atheris was had: hypothesis alone"
	@touch $@

integration: $(VENV)/.done ## the executables on libvirt's test driver
	$(BIN)/pytest -n 3 tests/integration

e2e: $(VENV)/.done ## outages on a real sanlock, a real libvirtd and real QEMU processes; root
	$(BIN)/pytest -n 3 tests/e2e

# What depends on libvirt's daemon, for another one than the usual (SANLOCK_HELPER_DAEMON).
modular: $(VENV)/.done ## the e2e tests that depend on libvirt's daemon, for another one; root
	$(BIN)/pytest -n 3 -m "modular and not timed" tests/e2e

# The table is written whether all were survived or not.  ONLY names cells, as pytest's -k does.
FAULTS := build/faults.jsonl
ONLY :=
faults: export SANLOCK_HELPER_FAULTS = full
faults: export SANLOCK_HELPER_FAULTS_RESULTS = $(FAULTS)
faults: $(VENV)/.done ## each fault at each stage of each action, beside the C helper: docs/reliability.md; ONLY=; root
	@mkdir -p build && rm -f $(FAULTS)
	@failed=0; $(BIN)/pytest -q -n 6 --dist loadgroup $(if $(ONLY),-k '$(ONLY)') tests/faults || failed=1; \
	PYTHONPATH=helper:auth:. $(BIN)/python -m tests.faults.results $(if $(ONLY),--part) $(FAULTS) || failed=1; \
	exit $$failed

# Each run has a seed of its own unless SEED= or SCHEDULE= names one; SHRINK=1 drops the steps that a violation does not
# need.  Schedules, and after a violation the logs, are left in build/chaos.
chaos: SECONDS := 180
SEED :=
SCHEDULE :=
SHRINK :=
chaos: $(VENV)/.done ## random faults and outages over two hosts and ten VMs: SECONDS=, SEED=, SCHEDULE=, SHRINK=1; root
	PYTHONPATH=helper:auth:. $(BIN)/python -m tests.chaos --seconds $(SECONDS) $(SEED:%=--seed %) \
	    $(SCHEDULE:%=--schedule %) $(SHRINK:%=--shrink)

# One preemption of a process more than `make test` has, and random interleavings that no other run has tried.
model: export SANLOCK_HELPER_MODEL = full
model: export SANLOCK_HELPER_EXAMPLES = random
model: $(VENV)/.done ## the models of spool, store and machines, searched further than by `make test`; no root
	$(BIN)/pytest -q -n 3 --durations=10 tests/model

# A fix whose text is not in the program any more, or more than once, ends the run.
ROWS :=
mutants: $(VENV)/.done ## each fix of the first hostile test taken back: which search finds it? ROWS=; root for the faults
	$(BIN)/python -m tests.mutants $(ROWS)

# The package: built, installed, updated and erased under systemd.
packaging: $(VENV)/.done ## the RPM and `make install` under systemd in a container, the SELinux policy; root
	$(BIN)/pytest tests/packaging

# The suite in the root of another Debian; its archive is kept in ~/.cache.  COMMAND: what is run there.
ROOT := trixie
DAEMON := libvirtd
WITHOUT :=
COMMAND := make unit integration e2e
matrix: $(VENV)/.done ## unit, integration and e2e in a root of another Debian: ROOT=, DAEMON=, WITHOUT=, COMMAND=; root
	$(BIN)/python -m tests.matrix --root $(ROOT) --daemon $(DAEMON) $(WITHOUT:%=--without %) -- $(COMMAND)

lint: $(VENV)/.done ## ruff, mypy --strict, shellcheck: as in .pre-commit-config.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	tests/shell

# The parts that need no libvirt, under the oldest and the newest Python that are here.
pure: $(VENV)/.done ## the tests that need nothing but Python, under 3.9 and 3.13 where those are here
	@tests/pure

# A warning of docutils is an error here.
man: $(VENV)/.done ## the manual pages, into build/man
	@mkdir -p build/man
	@for page in packaging/man/*.rst; do \
		$(BIN)/python -m docutils --writer=manpage --strict $$page build/man/$$(basename $$page .rst) || exit 1; \
	done

# Each part writes its table into docs/benchmarks.md, whether it kept its limits or not.
bench: $(VENV)/.done ## measure beside libvirt's C helper, and write docs/benchmarks.md; root
	@failed=0; for part in one_call storms standing recovery; do \
		PYTHONPATH=helper:auth:. $(BIN)/python -m tests.bench $$part || failed=1; \
	done; exit $$failed

install: ## the program without a package: PREFIX=/usr/local, DESTDIR=, STOCK_HELPER=
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' PYTHON='$(PYTHON)' packaging/install

uninstall: ## take away what `make install` of the same PREFIX= and DESTDIR= put there
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' packaging/install --remove

source: ## the source archive and the spec file, into dist
	@packaging/make-source $(DIST)

srpm: source ## dist/*.src.rpm
	rpmbuild -bs $(RPMBUILD_OPTIONS) --define '_topdir $(CURDIR)/$(DIST)/rpmbuild' \
	    --define '_sourcedir $(CURDIR)/$(DIST)' --define '_srcrpmdir $(CURDIR)/$(DIST)' \
	    $(DIST)/virt-sanlock-helper.spec

# The unit tests of %check run with the tools of the virtual environment, where rpm does not know python3-pytest.
rpm: source $(VENV)/.done ## dist/noarch/*.rpm, on Debian too
	rpmbuild -ba $(RPMBUILD_OPTIONS) --define '_topdir $(CURDIR)/$(DIST)/rpmbuild' \
	    --define '_sourcedir $(CURDIR)/$(DIST)' --define '_srcrpmdir $(CURDIR)/$(DIST)' \
	    --define '_rpmdir $(CURDIR)/$(DIST)' --define 'check_python $(CURDIR)/$(BIN)/python' \
	    $(DIST)/virt-sanlock-helper.spec

# The unit tests of the build run with the tools of the virtual environment: -d, since dpkg knows no python3-pytest then.
# DEB_BUILD_OPTIONS=nocheck leaves them out.
deb: $(VENV)/.done ## dist/*.deb and .changes, for Debian 12 and newer
	@packaging/dependencies --check deb
	CHECK_PYTHON=$(CURDIR)/$(BIN)/python packaging/make-deb $(DIST) -d

clean: ## remove what these targets make here
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
