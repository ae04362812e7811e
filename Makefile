# Every target works on a fresh clone: it sets up what it needs first, which takes no time when that is there already.
SHELL := bash
.DEFAULT_GOAL := help
# The project's tools on PATH and nothing of the real Vast.ai within reach.
LOCAL := . scripts/env.sh local &&
LINT := ruff check . && ruff format --check . && mypy && scripts/lint_pipelines.sh
TEST := env -u VAST_API_KEY -u VAST_URL pytest -q -n 2 --dist loadfile --durations=10

.PHONY: help setup setup-vllm setup-examples demo demo-down emulator test test-fast test-examples test-fleet lint docs bench chaos clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

setup: ## Python packages (.venv) and the Pulumi engine (.tools/bin): about 1 minute, 6 where Pulumi has to be built
	@scripts/setup.sh

setup-vllm: ## the same and two versions of real vLLM for CPU (.tools/vllm-*): 6 minutes and 12 GB more
	@scripts/setup.sh --vllm-all

setup-examples: setup ## a venv for the examples with heavy dependencies (.tools/examples): 1 minute and 500 MB more
	@scripts/setup_examples.sh

demo: ## from nothing to scores on this machine: setup, local Vast.ai, `pulumi up`, rerank
	@scripts/demo.sh up

demo-down: ## `pulumi destroy` of the demo, then stop the local Vast.ai
	@scripts/demo.sh down

emulator: ## the local Vast.ai in the foreground (EMULATOR_RUNTIME=none|stub|vllm, EMULATOR_PORT=8585)
	@scripts/setup.sh --vllm && $(LOCAL) scripts/emulator.sh foreground

test: setup-vllm ## lint, types and every test, with the real Pulumi engine and real vLLM
	@$(LOCAL) $(LINT) && $(TEST)

test-fast: setup ## lint, types and the tests that need neither vLLM nor the engine
	@$(LOCAL) $(LINT) && $(TEST) -m "not vllm and not engine"

test-examples: setup-examples ## the examples: RAG, LangChain, LlamaIndex and the rest, and the installed client
	@$(LOCAL) $(TEST) -m examples tests/client

test-fleet: setup-vllm ## two real vLLM behind a gateway, rolled, healed and re-keyed under load: 10 minutes and 12 GB of memory
	@$(LOCAL) VLLM_FLEET=1 pytest -q -s tests/infra/test_fleet_of_vllm.py

lint: setup ## ruff, mypy, and what CI runs: actionlint, zizmor, shellcheck, schemas
	@$(LOCAL) $(LINT)

docs: setup ## docs/configuration.md from the schema in Pulumi.yaml, components/packed.json from the guard and the catalog
	@$(LOCAL) python -m scripts.configuration && python -m scripts.pack

bench: setup ## measure the budgets: preview, up, API calls, guard
	@$(LOCAL) python -m bench

chaos: setup ## 200 seeded runs of faults and kills against the emulator; what leaked, in contracts and dollars
	@$(LOCAL) python -m chaos --runs 200

clean: ## stop the demo and remove .local (state, logs); the tools stay
	@if [ -d .local ]; then scripts/demo.sh down; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache

distclean: clean ## also remove .venv and .tools
	rm -rf .venv .tools
