# quickstart  train a small GPT with the package alone        install     the package and the test extra
# test        install, then the suite                         test-slow   the tests that take minutes
# check       lint, format, types, import contract            gpu-report  what the training step would do on an H200
# docs        the documentation, into site/             gpu-day     what one GPU does, in ten minutes; with this Python
# clean       remove environments and caches
#
# PYTHON names the interpreter. The first one used gets .venv; another version gets a folder of its own, such as .venv-3.12.

PYTHON ?= python3
# pyenv's name on PATH may lead nowhere although pyenv has that version: then look in its folder.
override PYTHON := $(shell $(PYTHON) -c '' 2>/dev/null && echo $(PYTHON) \
  || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin/$(notdir $(PYTHON)) 2>/dev/null | tail -n 1 | grep . || echo $(PYTHON))
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
TAKEN_BY := $(shell sed -n 's/^version *= *\([0-9]*\.[0-9]*\).*/\1/p' .venv/pyvenv.cfg 2>/dev/null)
VENV := $(if $(filter-out $(VERSION),$(TAKEN_BY)),.venv-$(VERSION),.venv)
ifeq ($(VERSION)$(filter clean,$(MAKECMDGOALS)),)
  $(error PYTHON=$(PYTHON) is not a Python that runs; jaxgpt needs 3.11 or later: make PYTHON=/path/to/python3)
endif
PIP := $(VENV)/bin/python -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt

.PHONY: quickstart install test test-slow check docs gpu-report gpu-day clean

quickstart: $(VENV)/.package
	$(VENV)/bin/jaxgpt train

install: $(VENV)/.test

test: install
	$(VENV)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: install
	$(VENV)/bin/python -m pytest -m slow

check: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict
	@echo "site/index.html opens from a disk, without a network"

gpu-report:
	@$(MAKE) --no-print-directory VENV=$(VENV)-gpu $(VENV)-gpu/.gpu-compile
	JAX_PLATFORMS=cpu $(VENV)-gpu/bin/python -m experiments.gpu_report

# In no environment of its own: a GPU machine has its jax, torch and driver; docs/speed.md says how to add the rest.
gpu-day:
	$(PYTHON) -m experiments.gpu_day $(if $(NANOGPT),--nanogpt $(NANOGPT))

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run start at once; editing the pins or pyproject.toml installs again.
$(VENV)/.package: EXTRA :=
$(VENV)/.test: EXTRA := [test]
$(VENV)/.dev: EXTRA := [dev]
$(VENV)/.docs: EXTRA := [docs]
$(VENV)/.gpu-compile: EXTRA := [gpu-compile]
$(VENV)/.package $(VENV)/.test $(VENV)/.dev $(VENV)/.docs $(VENV)/.gpu-compile: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "Installing jaxgpt$(EXTRA) into $(VENV) (Python $(VERSION)); the first time takes a few minutes."
	@$(PIP) -e '.$(EXTRA)'
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON) is Python $(VERSION); jaxgpt needs 3.11 or later: make PYTHON=/path/to/python3" >&2; exit 1; }
	@reason=$$($(PYTHON) -m venv $(VENV) 2>&1) || { rm -rf $(VENV); \
	  echo "PYTHON=$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python$(VERSION)-venv; or name another: make PYTHON=/path/to/python3" >&2; \
	  echo "It said: $$reason" >&2; exit 1; }
