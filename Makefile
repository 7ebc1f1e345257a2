# Everything starts here: `make` lists the targets. Only make and Python >= 3.10 are needed.

# make expands what is named on its command line, and a file may be called `$(shell ...)` or `$1`:
# every variable from there is taken as it is written, before anything reads it.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),\
	$(eval override $(name) := $$(value $(name)))))

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
KAGGLE_VENV := .venv-kaggle
# All tests, in two processes: one runs the notebooks, which leave much of two cores to the other.
BESIDE := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Recipes read these from their environment, so the shell expands nothing in them either. ARGS is
# for the shell: it splits it, so quotes in it count, and so would a `$(...)`.
export DATA OUTPUT SET FROM TO ONLY BENCH_DATA INPUT CROPS MODEL OWNER REPOSITORY

.DEFAULT_GOAL := help
.PHONY: help setup run predict test lint bench clean address kaggle-stage kaggle-push kaggle-check
.DELETE_ON_ERROR:

help: ## list the targets
	@echo "usage: make TARGET [VARIABLE=VALUE ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.installed ## all notebooks: demo data, or DATA=folder [OUTPUT= SET="03_train.EPOCHS=2" FROM= TO=]
	@$(PY) -m tools.run --data "$$DATA" --output "$$OUTPUT" --set "$$SET" \
		--from "$$FROM" --to "$$TO"

predict: $(VENV)/.installed ## judge INPUT=file, folder or glob, or CROPS= [MODEL=folder OUTPUT=folder ARGS="--json --prior 0.1"]
	@$(PY) -m tools.predict --input "$$INPUT" --crops "$$CROPS" --model "$$MODEL" \
		--output "$$OUTPUT" $(ARGS)

# Threads that wait let go of their cores, or both processes would take twice as long.
test: export OMP_WAIT_POLICY := PASSIVE
test: $(VENV)/.installed-dev ## all tests, the notebooks end to end included; ARGS="-k name" for some
	$(PY) -m pytest $(or $(ARGS),$(BESIDE))

lint: $(VENV)/.installed-dev ## ruff, format, stripped notebooks, types, who imports whom
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m nbstripout --keep-id --verify notebooks/*.ipynb
	$(PY) -m mypy
	$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()"

bench: $(VENV)/.installed ## ratios against peers and limits, into outputs/bench.json [ONLY=loader BENCH_DATA=]
	@$(PY) -m benchmarks.run

kaggle-stage: $(VENV)/.installed ## build/kaggle: the notebooks as Kaggle kernels, and utils as a data set; OWNER=name
	@$(PY) -m tools.kaggle stage --owner "$$OWNER"

kaggle-push: $(VENV)/.installed-dev ## stage them and push them in order; OWNER=name [ARGS=--dry-run]
	@$(PY) -m tools.kaggle push --owner "$$OWNER" $(ARGS)

kaggle-check: $(VENV)/.installed $(KAGGLE_VENV)/.installed ## run the kernels in a replica of Kaggle [ARGS="--form old"]
	@$(PY) -m tests.kaggle_replica.check $(ARGS)

address: $(VENV)/.installed-dev ## where this copy is public, into badges and cells; REPOSITORY=https://github.com/me/name
	@$(PY) -m tools.kaggle address --repository "$$REPOSITORY"

setup: $(VENV)/.installed-dev ## .venv with everything, which the others do by themselves

clean: ## remove caches, outputs/demo and outputs/test; keeps .venv and all other outputs
	rm -rf outputs/demo outputs/test .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A stamp gets its name last, so a failed installation leaves none that counts, and its time first,
# so requirements that change meanwhile are installed next time.
$(VENV)/.installed: requirements.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { $(check_python); $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing requirements.txt into $(VENV) (some minutes and 6 GB the first time)" >&2
	@touch $@.new
	@$(PY) -m pip install --disable-pip-version-check -r requirements.txt >&2
	@mv $@.new $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@touch $@.new
	@$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@mv $@.new $@

# Kaggle runs Python 3.12; where there is none, the replica takes the project's.
$(KAGGLE_VENV)/.installed: tests/kaggle_replica/requirements.txt
	@echo "Installing Kaggle's versions into $(KAGGLE_VENV) (some minutes and 6 GB the first time)"
	@$(KAGGLE_VENV)/bin/python -m pip --version >/dev/null 2>&1 || \
		for python in python3.12 $$HOME/.pyenv/versions/3.12*/bin/python $(PYTHON); do \
			$$python -m venv --clear $(KAGGLE_VENV) 2>/dev/null && break; done
	@touch $@.new
	@$(KAGGLE_VENV)/bin/python -m pip install --disable-pip-version-check -r $<
	@mv $@.new $@

define check_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	echo "Python 3.10 or newer is needed; '$(PYTHON)' is missing or older." \
		"Name another one: make PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "'$(PYTHON)' cannot make virtual environments." \
		"On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
endef
