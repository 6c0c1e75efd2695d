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

# Needs node and npm. A chromium on the PATH is used; otherwise one is put into the cache.
REPORT_CHECK := .cache/check-report
check-report: $(STAMP) ## open a report in a browser: errors, accessibility, screenshots
	npm install --prefix $(REPORT_CHECK) --no-save --silent playwright-core axe-core
	command -v chromium >/dev/null || PLAYWRIGHT_BROWSERS_PATH=$(REPORT_CHECK)/browsers $(REPORT_CHECK)/node_modules/.bin/playwright-core install chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.analysis.report.check $(REPORT_CHECK)/pages
	cp tests/analysis/report/check.mjs $(REPORT_CHECK)/
	PLAYWRIGHT_BROWSERS_PATH=$(REPORT_CHECK)/browsers node $(REPORT_CHECK)/check.mjs $(REPORT_CHECK)/pages

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
