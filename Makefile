# Every target works on a fresh clone: it sets up what it needs first, which takes no time when that is there already.
SHELL := bash
.DEFAULT_GOAL := help
# The project's tools on PATH and nothing of the real Vast.ai within reach.
LOCAL := . scripts/env.sh local &&
PYTEST := $(LOCAL) env -u VAST_API_KEY -u VAST_URL pytest -q
TWO_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo demo-down emulator test test-rest test-all lint locks sbom audit docs site picture bench chaos clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## what a stack on real Vast.ai needs: .venv and the Pulumi engine
	@scripts/setup.sh production

demo: ## from nothing to scores on this machine: setup, local Vast.ai, `pulumi up`, rerank
	@scripts/demo.sh up

demo-down: ## `pulumi destroy` of the demo, then stop the local Vast.ai
	@scripts/demo.sh down

emulator: ## the local Vast.ai in the foreground (EMULATOR_RUNTIME=none|stub|vllm, EMULATOR_PORT=8585)
	@scripts/setup.sh demo && $(LOCAL) scripts/emulator.sh foreground

test: ## lint, types, and the quick tests, with the real Pulumi engine, real Caddy and real vLLM: under 8 minutes
	@scripts/setup.sh test
	@$(PYTEST) $(TWO_WORKERS) -m quick

test-rest: ## what `make test` leaves out: more models, older vLLM, the examples' venv, others' clients, long fuzz and chaos: 44 minutes
	@scripts/setup.sh all
	@$(PYTEST) $(TWO_WORKERS) -m "all and not alone"

test-all: test test-rest ## every test there is: both, and a fleet of real vLLM that needs both cores and 12 GB for itself
	@$(PYTEST) -m "all and alone"

lint: ## ruff, mypy, and what CI runs: actionlint, zizmor, shellcheck, schemas
	@scripts/setup.sh test
	@$(PYTEST) tests/lint

locks: ## requirements/*.lock from requirements.txt and requirements/*.in
	@scripts/lock.sh

sbom: ## .local/sbom.json: what is deployed, by package, version and hashes (CycloneDX)
	@scripts/install.sh .tools/audit audit && mkdir -p .local
	@PYTHONWARNINGS=ignore .tools/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o .local/sbom.json \
	  requirements/production.lock && echo "sbom: .local/sbom.json"

audit: ## known advisories of what is deployed, by pip-audit; says so where the index cannot be asked
	@scripts/install.sh .tools/audit audit
	@.tools/audit/bin/python scripts/audit.py .tools/audit/bin/pip-audit requirements/production.lock

docs: ## the pages that are made: configuration (and the config section of Pulumi.yaml), plug-it-into
	@scripts/setup.sh test
	@$(LOCAL) python -m scripts.configuration && python -m scripts.applications

site: ## docs/ as pages in .local/site
	@scripts/setup.sh test
	@$(LOCAL) mkdocs build --strict --quiet

picture: ## docs/demo.svg, the picture in the README, from a real run of the demo
	@set -o pipefail; scripts/demo.sh up | .venv/bin/python -m scripts.picture

bench: ## measure preview, up and API calls against their budgets, and how fast a bad host is given up
	@scripts/setup.sh test
	@$(LOCAL) python -m bench

chaos: ## 200 seeded runs of faults and kills against the emulator; what leaked, in contracts and dollars
	@scripts/setup.sh test
	@$(LOCAL) python -m chaos --runs 200

clean: ## stop the demo and remove .local (state, logs); the tools stay
	@if [ -d .local ]; then scripts/demo.sh down; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache

distclean: clean ## also remove .venv and .tools
	rm -rf .venv .tools
