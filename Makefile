# `make run` and `make test` do everything on a fresh machine that has Python 3.11+.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
KERNELS := hatch_build.py $(wildcard src/tasador/*/*.c)
LOCK := uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-emit-find-links \
	--universal -q -p 3.11

# uv installs the same locked set in a fraction of pip's time; pip does where uv is not there. Both
# compile it, so that no process has to (5 seconds each, where Python may not write its cache).
ifdef UV
INSTALL = uv pip install -q --compile-bytecode --python $(BIN)/python
else
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help run test slow lint bench up demo security secrets audit sbom docs pages dashboards evidently lock clean

help: ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

run: $(VENV)/.train ## Install what is locked and run the pipeline (ARGS="dataset=diamonds")
	$(BIN)/tasador run $(ARGS)

test: lint ## Lint, layering, tests with coverage
	$(BIN)/pytest -n 2 -m "not slow" --cov --cov-report=term:skip-covered

slow: $(VENV)/.dev ## The tests that take minutes: whole lives of models, processes killed
	$(BIN)/pytest -n 2 -m slow --dist loadfile

lint: $(VENV)/.dev ## ruff, strict mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure everything and draw docs/explanation/benchmarks.md (ARGS="--only NAME")
	$(BIN)/python benchmarks/suite.py $(ARGS)

up: $(VENV)/.dev ## Start API, web app, watcher and MLflow on this machine (ARGS="--ui-port 8600")
	$(BIN)/tasador up $(ARGS)

demo: $(VENV)/.dev ## Replay rows through what `make up` started, prices rise meanwhile
	$(BIN)/tasador simulate --pause 0.2 $(ARGS)

security: $(VENV)/.dev ## bandit, secrets, workflows, Dockerfiles
	$(BIN)/bandit -q -ll -c pyproject.toml -r src docker deploy .github
	git ls-files -z -- . ':!requirements' | \
		xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/zizmor --offline --no-progress .github
	$(BIN)/hadolint docker/*.Dockerfile

secrets: $(VENV)/.dev ## Note false alarms of detect-secrets in its baseline
	git ls-files -z -- . ':!requirements' ':!.secrets.baseline' | \
		xargs -0 $(BIN)/detect-secrets scan > .secrets.baseline

audit: $(VENV)/.audit ## Known vulnerabilities of what is locked (needs the network)
	for file in serve pipeline ui; do \
		$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes -r requirements/$$file.txt; done

sbom: $(VENV)/.dev ## Bills of materials (CycloneDX) of the images, into sbom/
	mkdir -p sbom
	for file in serve pipeline ui; do PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements requirements/$$file.txt \
		--pyproject pyproject.toml --output-reproducible -o sbom/$$file.cdx.json; done

docs: $(VENV)/.dev ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pages: $(VENV)/.dev ## Write the generated pages of docs/reference anew
	$(BIN)/python -m tasador.config.reference > docs/reference/configuration.md
	$(BIN)/python -m tasador.config.service_reference settings > docs/reference/service-settings.md
	$(BIN)/python -m tasador.config.service_reference metrics > docs/reference/metrics.md
	$(BIN)/python -m tasador.cli.reference > docs/reference/commands.md

evidently: ## Evidently's own report: make evidently REFERENCE=a.csv CURRENT=b.csv OUT=drift.html
	test -x $(VENV)-evidently/bin/python || $(PYTHON) -m venv $(VENV)-evidently
	$(VENV)-evidently/bin/python -m pip install -q "evidently>=0.7.23" "pandas>=2.3,<3" pyarrow
	$(VENV)-evidently/bin/python deploy/evidently_report.py "$(REFERENCE)" "$(CURRENT)" "$(or $(OUT),drift.html)"

dashboards: $(VENV)/.dev ## Write the Grafana dashboards again
	$(BIN)/python deploy/grafana/dashboards.py

lock: ## Resolve the requirements again
	$(LOCK) --extra train --extra serve --extra boosters --extra dev --extra gcs --extra s3 \
		--extra ui --extra wandb --extra signing --extra dist -o requirements/dev.txt
	$(LOCK) --extra train -c requirements/dev.txt -o requirements/train.txt
	$(LOCK) --extra serve --extra signing -c requirements/dev.txt -o requirements/serve.txt
	$(LOCK) --extra serve --extra signing --extra gcs --extra s3 -c requirements/dev.txt \
		-o requirements/serve-cloud.txt
	$(LOCK) --extra train --extra serve --extra signing --extra gcs --extra s3 \
		-c requirements/dev.txt -o requirements/pipeline.txt
	$(LOCK) --extra ui -c requirements/dev.txt -o requirements/ui.txt
	for file in build audit; do uv pip compile requirements/$$file.in --generate-hashes \
		--no-emit-index-url --universal -q -p 3.11 -o requirements/$$file.txt; done

clean: ## Remove the environment and the caches, not the workspace
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: requirements/pipeline.txt pyproject.toml $(KERNELS) | $(VENV)/bin/python
	$(INSTALL) --require-hashes -r requirements/pipeline.txt
	$(INSTALL) --no-deps -e .
	$(BIN)/python -m compileall -q src
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml $(KERNELS) | $(VENV)/bin/python
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL) --no-deps -e .
	$(BIN)/python -m compileall -q src
	touch $@ $(VENV)/.train

$(VENV)/.audit: requirements/audit.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r requirements/audit.txt
	touch $@
