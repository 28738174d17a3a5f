# make help says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# An installed but stopped Slurm makes every Snakemake start wait for it; local runs need none.
LOCAL := SLURM_CONF=/dev/null PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help env run run-t5 plan smoke test check format clean soak slurm-lab slurm-lab-down archive readme schema

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	  || { echo "Isotone needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing). Say: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 78; }
	@echo "Installing into $(VENV) (some minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

env: $(READY)  ## create .venv with the locked packages

run: $(READY)  ## the whole embedded study: results/kjv/report.html
	@$(LOCAL) $(BIN)/python scripts/run_study.py config/config.yaml

run-t5: $(READY)  ## the embedded study of pairs (T5): results/t5/report.html
	@$(LOCAL) $(BIN)/python scripts/run_study.py config/t5.yaml

plan: $(READY)  ## what CONFIG (default config/config.yaml) would run, and what it costs
	@$(LOCAL) $(BIN)/snakemake -n --configfile $(or $(CONFIG),config/config.yaml)
	@$(BIN)/isotone estimate --configfile $(or $(CONFIG),config/config.yaml)

smoke: $(READY)  ## every stage on a very small model, under 90 seconds
	@$(LOCAL) $(BIN)/python scripts/run_study.py config/smoke.yaml

test: $(READY)  ## the whole test suite
	@$(LOCAL) $(BIN)/python -m pytest --numprocesses 2 --dist loadscope --cov=isotone --cov-report=term --floors

check: $(READY)  ## formatting, linting, types and the fast tests
	@$(BIN)/ruff format --check scripts tests benchmarks docs
	@$(BIN)/ruff check scripts tests benchmarks docs
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/mypy
	@$(BIN)/python docs/architecture.py --check
	@$(LOCAL) $(BIN)/snakemake --lint
	@$(LOCAL) $(BIN)/python -m pytest tests/unit -m "not slow"

format: $(READY)  ## format everything
	@$(BIN)/ruff format scripts tests benchmarks docs && $(BIN)/ruff check --fix scripts tests benchmarks
	@$(BIN)/snakefmt Snakefile rules

schema: $(READY)  ## write config/schema.yaml and config/README.md from the settings
	@$(BIN)/python -m isotone schema

readme: $(READY)  ## put the verdicts of the finished default study into README.md
	@$(BIN)/python -m isotone.reporting.page.readme results/kjv/final_results.json

archive: $(READY)  ## pack rows, settings, lock and digests of STUDY (default kjv)
	@$(LOCAL) $(BIN)/python scripts/archive.py --folder results/$(or $(STUDY),kjv)

soak: $(READY)  ## kill training 1,000 times and compare the weights (its own program, not part of make test)
	@$(LOCAL) $(BIN)/python benchmarks/soak.py --kills 1000 --corruptions 100

slurm-lab: $(READY)  ## start a small real Slurm on this machine (root, Debian packages)
	@bash tests/slurm/lab.sh up

slurm-lab-down:  ## stop it
	@bash tests/slurm/lab.sh down

clean:  ## remove results of the shipped studies, caches and Snakemake's notes (keeps .venv)
	@rm -rf results/kjv results/smoke results/t5 results/t5-smoke .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
