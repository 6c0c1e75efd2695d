# Everything runs in .venv, which the first target to need it makes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?=
ARGS ?=

.PHONY: install fewshot study test stress check-report lint types format clean help

help: ## what there is to do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP) ## make the environment

# torch first and alone: nothing else may choose its build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

fewshot: $(STAMP) ## the main job, about five minutes: make fewshot [RUN=folder] [ARGS="key=value ..."]
	$(BIN)/python -m moe_tasks.train +experiment=fewshot $(if $(RUN),run_dir=$(RUN) resume=auto) $(ARGS)

study: $(STAMP) ## the main job with its controls over seeds and task splits (hours)
	$(BIN)/python -m moe_tasks.train --multirun +experiment=fewshot_study $(ARGS)

test: $(STAMP) ## the test suite
	HF_HUB_OFFLINE=1 WANDB_MODE=disabled OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not stress" $(ARGS)

stress: $(STAMP) ## the long tests
	HF_HUB_OFFLINE=1 WANDB_MODE=disabled OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m stress --timeout 3600 $(ARGS)

check-report: $(STAMP) ## open a report in a browser: errors, accessibility, screenshots
	tests/analysis/report/check.sh $(BIN)/python .cache/check-report

lint: $(STAMP) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## type check
	$(BIN)/pyright

format: $(STAMP) ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .ruff_cache
