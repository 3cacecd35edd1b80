# `make run` and `make test` do everything on a fresh machine that has Python 3.11+.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := hatch_build.py $(wildcard src/tasador/*/*.c)
LOCK := requirements/lock.txt
# What `make run` and `make up` use; the tests use every extra.
RUN_EXTRAS := train serve ui signing appraise
# The same pinned installer everywhere, whatever pip the machine's Python brings. Everything is compiled
# at once, so that no process has to (5 seconds each, where Python may not write its cache).
UV_INSTALL = $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode

# $(call install,EXTRAS): exactly what is locked, hashes checked, then tasador itself from this folder
define install
	@echo "installing: $(1) (a minute or two; the packages are listed at the end)"
	$(UV_INSTALL) --require-hashes -c $(LOCK) -r pyproject.toml $(addprefix --extra ,$(1))
	$(UV_INSTALL) --no-deps --build-constraints $(LOCK) -e .
	@$(BIN)/python -m compileall -q src
endef

.DEFAULT_GOAL := help
.PHONY: help run install test slow mutate fuzz lint bench up demo security secrets audit sbom dist docs pages dashboards evidently lock clean

help: ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

run: $(VENV)/.run ## Install what is locked and run the pipeline (ARGS="dataset=diamonds")
	$(BIN)/tasador run $(ARGS)

install: $(VENV)/.run ## Add extras to the environment (EXTRAS="gcs s3 wandb dist alerts boosters")
	$(call install,$(RUN_EXTRAS) $(EXTRAS))

# Two workers share the cores: a library that starts as many threads as there are cores would wait for them,
# and threads that wait must not spin.
test slow: export OMP_NUM_THREADS := 1
test slow: export OMP_WAIT_POLICY := passive

test: lint ## Lint, layering, tests with coverage
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term:skip-covered

slow: $(VENV)/.dev ## The tests that take minutes: whole lives of models, processes killed
	$(BIN)/pytest -n 2 -m slow --dist loadfile

fuzz: $(VENV)/.dev ## Hostile bundles, contracts, files and requests (MINUTES=60, EXAMPLES=200 a route)
	$(BIN)/pytest -s tests/fuzz -m "not slow" --minutes $(or $(MINUTES),60) --examples $(or $(EXAMPLES),200)

mutate: $(VENV)/.dev ## Change the code in small ways: do the tests notice? (ARGS="rows --sample 60")
	$(BIN)/python scripts/mutation/run.py $(ARGS)

lint: $(VENV)/.dev ## ruff, strict mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure everything and draw docs/explanation/benchmarks.md (ARGS="--only NAME")
	$(BIN)/python benchmarks/suite.py $(ARGS)

up: $(VENV)/.run ## Start API, web app, watcher and MLflow on this machine (ARGS="--ui-port 8600")
	$(BIN)/tasador up --window 60 --interval 5 $(ARGS)

demo: $(VENV)/.run ## Drift, retraining, gates, canary, new champion, rollback, in five minutes, with a web app to watch it
	$(BIN)/tasador demo --ui $(ARGS)

security: $(VENV)/.dev ## bandit, secrets now and in all commits, workflows, Dockerfiles
	$(BIN)/bandit -q -ll -c pyproject.toml -r src docker deploy .github
	git ls-files -z -- . ':!requirements' ':!.secrets.history' | \
		xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/python .github/scripts/secrets_in_history.py
	$(BIN)/zizmor --offline --no-progress .github
	$(BIN)/hadolint docker/*.Dockerfile

secrets: $(VENV)/.dev ## Note false alarms of detect-secrets in its baseline
	git ls-files -z -- . ':!requirements' ':!.secrets.baseline' ':!.secrets.history' | \
		xargs -0 $(BIN)/detect-secrets scan > .secrets.baseline
	$(BIN)/python .github/scripts/secrets_in_history.py --note

audit: $(VENV)/.audit ## Known vulnerabilities of what is locked (needs the network)
	@$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r $(LOCK) || { echo "audit: a package has a known" \
		"vulnerability (listed above), or the index of advisories has none of them: run it where the network exists"; exit 1; }

sbom: $(VENV)/.dev ## Bills of materials (CycloneDX) of the images, into sbom/ (needs the network)
	mkdir -p sbom
	for image in api pipeline ui; do \
		extras=$$(sed -n 's/^ARG EXTRAS="\(.*\)"$$/\1/p' docker/$$image.Dockerfile); \
		$(BIN)/uv pip compile pyproject.toml $$extras -c $(LOCK) --generate-hashes --no-annotate \
			--no-emit-index-url -p 3.11 -q -o sbom/$$image.txt; \
		PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements sbom/$$image.txt \
			--pyproject pyproject.toml --output-reproducible -o sbom/$$image.cdx.json; done

# The wheel shows that the sources build; it holds kernels for this machine's C library only.
dist: $(VENV)/.dev ## The source distribution in dist/, built with what is locked
	rm -rf dist
	$(BIN)/uv build --build-constraints $(LOCK) -q -o dist .
	rm dist/*.whl

docs: $(VENV)/.dev ## Build the documentation into site/, and say how to read it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "to read it (the search works over HTTP only): $(BIN)/python -m http.server -b 127.0.0.1 -d site 8090"

pages: $(VENV)/.dev ## Write the generated pages of docs/reference again
	$(BIN)/python -m tasador.cli.reference_pages configuration > docs/reference/configuration.md
	$(BIN)/python -m tasador.cli.reference_pages python > docs/reference/python.md
	$(BIN)/python -m tasador.cli.reference_pages settings > docs/reference/service-settings.md
	$(BIN)/python -m tasador.cli.reference_pages metrics > docs/reference/metrics.md
	$(BIN)/python -m tasador.cli.reference_pages watch > docs/reference/watch-settings.md
	$(BIN)/python -m tasador.cli.reference_pages figures README*.md docs/*/*.md
	$(BIN)/python -m tasador.cli.reference_pages commands > docs/reference/commands.md

evidently: ## Evidently's own report: make evidently REFERENCE=a.csv CURRENT=b.csv OUT=drift.html
	test -x $(VENV)-evidently/bin/python || $(PYTHON) -m venv $(VENV)-evidently
	$(VENV)-evidently/bin/python -m pip install -q "evidently>=0.7.23" "pandas>=2.3,<3" pyarrow
	$(VENV)-evidently/bin/python deploy/evidently_report.py "$(REFERENCE)" "$(CURRENT)" "$(or $(OUT),drift.html)"

dashboards: $(VENV)/.dev ## Write the Grafana dashboards again
	$(BIN)/python deploy/grafana/dashboards.py

lock: $(VENV)/bin/uv ## Resolve the requirements again (ARGS="--upgrade-package NAME")
	$(BIN)/uv pip compile pyproject.toml --all-extras --group build --group audit --generate-hashes \
		--no-strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --universal --fork-strategy fewest -q -p 3.11 \
		$(ARGS) -o $(LOCK)

clean: ## Remove the environment and the caches, not the workspace
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tasador needs Python 3.11" \
		"or newer, got $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 names another"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/bin/uv: requirements/uv.txt | $(VENV)/bin/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.run: $(LOCK) pyproject.toml $(KERNELS) $(VENV)/bin/uv
	$(call install,$(RUN_EXTRAS))
	@touch $@

$(VENV)/.dev: $(LOCK) pyproject.toml $(KERNELS) $(VENV)/bin/uv
	$(call install,train serve ui signing appraise gcs s3 wandb dist alerts boosters dev)
	@touch $@ $(VENV)/.run

$(VENV)/.audit: $(LOCK) pyproject.toml $(VENV)/bin/uv
	$(PYTHON) -m venv $(VENV)/audit
	$(BIN)/uv pip install -q --python $(VENV)/audit/bin/python --require-hashes -c $(LOCK) --group audit
	touch $@
