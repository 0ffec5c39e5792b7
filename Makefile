# SPDX-License-Identifier: LGPL-2.1-or-later
#
# make demo   all four actions on libvirt's embedded test driver, state shown before and after
# make test   the whole suite, on a real sanlock, libvirtd and QEMU
# make bench  one call, and storms of calls, beside libvirt's C helper
#
# The first two install what is missing, with apt or dnf, and do so once.

# The distribution's interpreter: it is the one that sees libvirt and sanlock.
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin

# REQUIRE=1 turns a missing precondition of a test from a skip into a failure.
REQUIRE ?= 0
export SANLOCK_HELPER_REQUIRE = $(REQUIRE)

.PHONY: all demo test unit integration e2e bench lint pure man dependencies clean

all: test

dependencies:
	@packaging/dependencies run

$(VENV)/.done: packaging/requirements-test.txt
	@packaging/dependencies test
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: dependencies
	@tests/demo

test: $(VENV)/.done lint pure man
	rm -f .coverage*
	$(BIN)/coverage run -m pytest -n 3 --dist loadgroup tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

unit integration e2e: $(VENV)/.done
	$(BIN)/pytest -n 3 tests/$@

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
	@$(PYTHON) -m tests.bench.one_call
	@$(PYTHON) -m tests.bench.storms

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
