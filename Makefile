# SPDX-License-Identifier: LGPL-2.1-or-later
#
# make demo   all four actions on libvirt's embedded test driver, state shown before and after
# make test   the whole suite, on a real sanlock, libvirtd and QEMU
# make bench  one call, and storms of calls, beside libvirt's C helper; storms and outages beside no recovery
# make packaging  the suite of the package: RPM, systemd, SELinux
# make rpm    the RPMs, in dist/;  make srpm: the source RPM
# make matrix   unit, integration and e2e tests in a root of Debian 13; ROOT=forky: of that suite, DAEMON=virtqemud
#               WITHOUT=python3-sanlock COMMAND='make packaging'
# make install DESTDIR= PREFIX=/usr/local
#
# The first two install what is missing, with apt or dnf, and do so once.

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

.PHONY: all demo test unit integration e2e modular packaging bench matrix lint pure man dependencies dependencies-test clean source srpm rpm install

all: test

dependencies:
	@packaging/dependencies run

dependencies-test:
	@packaging/dependencies test

$(VENV)/.done: packaging/requirements-test.txt packaging/dependencies packaging/newer-sanlock packaging/newer-glib
	@packaging/dependencies test
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r packaging/requirements-test.txt
	@packaging/newer-sanlock $(VENV)/sanlock || echo "no newer sanlock was had: the test that needs one is left out"
	@packaging/newer-glib $(VENV)/glib || echo "no newer GLib was had: the test that needs one is left out"
	@touch $@

demo: dependencies
	@tests/demo

test: $(VENV)/.done lint pure man
	rm -f .coverage*
	$(BIN)/coverage run -m pytest -n 3 --dist loadgroup --ignore=tests/packaging tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

unit integration e2e: $(VENV)/.done
	$(BIN)/pytest -n 3 tests/$@

# What depends on libvirt's daemon, for another one than the usual (SANLOCK_HELPER_DAEMON).
modular: $(VENV)/.done
	$(BIN)/pytest -n 3 -m modular tests/e2e

# The package: built, installed, updated and erased under systemd.
packaging: $(VENV)/.done
	$(BIN)/pytest tests/packaging

# The suite in the root of another Debian; its archive is kept in ~/.cache.  COMMAND: what is run there.
ROOT := trixie
DAEMON := libvirtd
WITHOUT :=
COMMAND := make unit integration e2e
matrix: $(VENV)/.done
	$(BIN)/python -m tests.matrix --root $(ROOT) --daemon $(DAEMON) $(WITHOUT:%=--without %) -- $(COMMAND)

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests

# The parts that need no libvirt, under the oldest and the newest Python that are here.
pure: $(VENV)/.done
	@tests/pure

# A warning of docutils is an error here.
man: $(VENV)/.done
	@mkdir -p build/man
	@for page in packaging/man/*.rst; do \
		$(BIN)/python -m docutils --writer=manpage --strict $$page build/man/$$(basename $$page .rst) || exit 1; \
	done

bench: $(VENV)/.done
	@failed=0; for part in one_call storms recovery; do \
		$(BIN)/python -m tests.bench.$$part || failed=1; \
	done; exit $$failed

install:
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' PYTHON='$(PYTHON)' packaging/install

source:
	@packaging/make-source $(DIST)

srpm: source
	rpmbuild -bs $(RPMBUILD_OPTIONS) --define '_topdir $(CURDIR)/$(DIST)/rpmbuild' \
	    --define '_sourcedir $(CURDIR)/$(DIST)' --define '_srcrpmdir $(CURDIR)/$(DIST)' \
	    $(DIST)/virt-sanlock-helper.spec

# The unit tests of %check run with the tools of the virtual environment, where rpm does not know python3-pytest.
rpm: source $(VENV)/.done
	rpmbuild -ba $(RPMBUILD_OPTIONS) --define '_topdir $(CURDIR)/$(DIST)/rpmbuild' \
	    --define '_sourcedir $(CURDIR)/$(DIST)' --define '_srcrpmdir $(CURDIR)/$(DIST)' \
	    --define '_rpmdir $(CURDIR)/$(DIST)' --define 'check_python $(CURDIR)/$(BIN)/python' \
	    $(DIST)/virt-sanlock-helper.spec

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
