# Every target works on a fresh clone: it first installs its packages, unless they are installed.
SHELL := bash
.DEFAULT_GOAL := help
# Puts the project's tools on PATH, and prevents access to the real Vast.ai.
LOCAL := . scripts/env.sh local &&
PYTEST := $(LOCAL) env -u VAST_API_KEY -u VAST_URL pytest -q
TWO_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo demo-down emulator test test-rest test-all lint locks sbom audit docs site picture bench chaos clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install the packages for a stack on real Vast.ai: .venv and the Pulumi engine
	@scripts/setup.sh production

demo: ## run the demo on this machine: setup, local Vast.ai, `pulumi up`, rerank
	@scripts/demo.sh up

demo-down: ## run `pulumi destroy` for the demo, then stop the local Vast.ai
	@scripts/demo.sh down

emulator: ## run the local Vast.ai in the foreground (EMULATOR_RUNTIME=none|stub|vllm, EMULATOR_PORT=8585)
	@scripts/setup.sh demo && $(LOCAL) scripts/emulator.sh foreground

test: ## run lint, types, and the quick tests, with the real Pulumi engine, real Caddy and real vLLM: under 8 minutes
	@scripts/setup.sh test
	@$(PYTEST) $(TWO_WORKERS) -m quick

test-rest: ## run the other tests: more models, older vLLM, the examples' venv, third-party clients, long fuzz and chaos: 44 minutes
	@scripts/setup.sh all
	@$(PYTEST) $(TWO_WORKERS) -m "all and not alone"

test-all: test test-rest ## run all tests: both, and a fleet of real vLLM, which needs both cores and 12 GB for itself
	@$(PYTEST) -m "all and alone"

lint: ## run ruff, mypy, and the other checks of CI: actionlint, zizmor, shellcheck, schemas
	@scripts/setup.sh test
	@$(PYTEST) tests/lint

locks: ## write requirements/*.lock from requirements.txt and requirements/*.in
	@scripts/lock.sh

sbom: ## write .local/sbom.json: the deployed packages with versions and hashes (CycloneDX)
	@scripts/install.sh .tools/audit audit && mkdir -p .local
	@PYTHONWARNINGS=ignore .tools/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o .local/sbom.json \
	  requirements/production.lock && echo "sbom: .local/sbom.json"

audit: ## check the deployed packages for known advisories with pip-audit; fails if the index is unreachable
	@scripts/install.sh .tools/audit audit
	@.tools/audit/bin/python scripts/audit.py .tools/audit/bin/pip-audit requirements/production.lock

docs: ## write the generated files: configuration.md, plug-it-into.md, the config section of Pulumi.yaml, package/args.py
	@scripts/setup.sh test
	@$(LOCAL) python -m scripts.configuration && python -m scripts.applications

site: ## build docs/ as a site in .local/site
	@scripts/setup.sh test
	@$(LOCAL) mkdocs build --strict --quiet

picture: ## write docs/demo.svg, the picture in the README, from a real run of the demo
	@set -o pipefail; scripts/demo.sh up | .venv/bin/python -m scripts.picture

bench: ## measure preview, up and API calls against their budgets, and the time to leave a bad host
	@scripts/setup.sh test
	@$(LOCAL) python -m bench

chaos: ## run 200 seeded runs of faults and kills against the emulator; print leaked contracts and dollars
	@scripts/setup.sh test
	@$(LOCAL) python -m chaos --runs 200

clean: ## stop the demo and remove .local (state, logs); keep the tools
	@if [ -d .local ]; then scripts/demo.sh down; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache

distclean: clean ## also remove .venv and .tools
	rm -rf .venv .tools
