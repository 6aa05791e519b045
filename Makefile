# Every target makes its own environment: Python 3.11+, make and a package index are all it needs.
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
SYNC = $(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never
PEERS = $(UV) pip sync --quiet --python .tools/peers/bin/python --require-hashes tests/bench/peers/requirements.txt

.DEFAULT_GOAL := help
.PHONY: help dev test newcomer configuration lint format type-check contracts ci docs deploy-test chaos consistency bench wheels audit changelog release lock clean

help: ## what can be run
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(UV):
	@echo "making the tool environment in .tools"
	@$(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.12"

.venv/.ready: requirements.lock pyproject.toml shared/pyproject.toml gateway/pyproject.toml worker/pyproject.toml shared/reflex/core/version.py | $(UV)
	@echo "making the environment in .venv"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@# The second try trusts the machine's own certificates, which an index behind a company's proxy needs.
	@$(SYNC) || UV_SYSTEM_CERTS=1 $(SYNC)
	@# The build back end is in the lock as well: nothing is fetched without a hash.
	@$(UV) pip install --quiet --offline --python $(BIN)/python --no-build-isolation --no-deps -e shared -e gateway -e worker
	@touch $@

dev: .venv/.ready ## PostgreSQL, a gateway, two workers and the example app; Ctrl-C stops all
	@$(BIN)/reflex dev

test: .venv/.ready ## the whole suite on a real PostgreSQL
	@# Three processes, since most tests wait; a file of tests to one of them, in the order of their names: the slowest begin.
	@$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: .venv/.ready ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: .venv/.ready ## write what ruff would
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

type-check: .venv/.ready ## pyright, strict
	@$(BIN)/pyright

contracts: .venv/.ready ## who may import whom
	@$(BIN)/lint-imports

ci: lint type-check contracts docs test newcomer deploy-test ## what has to pass before a change lands; a short chaos run is among the tests

docs: .venv/.ready ## the site of the guides, in .site; `python3 -m http.server -d .site` shows it
	@$(BIN)/zensical build --strict --clean

newcomer: .venv/.ready ## a fresh clone, a project from the template in copier.yml, its own checks, and an update of it
	@$(BIN)/pytest -q tests/deploy/newcomer.py

configuration: .venv/.ready ## docs/guides/configuration.md anew from the settings
	@$(BIN)/python -m tests.docs.configuration

deploy-test: .venv/.ready ## PgBouncer killed and a primary lost under load, for longer than among the tests
	@DEPLOY_SECONDS=10 $(BIN)/pytest -q tests/deploy/test_pgbouncer.py tests/deploy/test_standby.py

chaos: .venv/.ready ## five minutes of killed processes, cut connections and restarted databases under load
	@$(BIN)/python -m tests.chaos.chaos --seconds 300

consistency: .venv/.ready ## two minutes of readers that must miss nothing through kills; ten thousand idle ones; a blocked minute
	@CONSISTENCY_SECONDS=120 $(BIN)/pytest -q -s tests/acceptance/test_consistency.py
	@BLOCKED_SECONDS=60 $(BIN)/pytest -q tests/acceptance/test_lost_workers.py -k blocks
	@IDLE_CONNECTIONS=10000 $(BIN)/pytest -q tests/gateway/live/test_peers.py -k idle_connections

.tools/peers/.ready: tests/bench/peers/requirements.txt | $(UV)
	@echo "making the environment of the libraries that are measured beside Reflex in .tools/peers"
	@test -x .tools/peers/bin/python || $(UV) venv --quiet --python $(PYTHON) .tools/peers
	@$(PEERS) || UV_SYSTEM_CERTS=1 $(PEERS)
	@touch $@

bench: .venv/.ready .tools/peers/.ready ## the numbers of the README, each beside a limit measured in the same run
	@$(BIN)/reflex bench $(BENCH)

wheels: $(UV) ## the three distributions, in dist/
	@rm -f dist/reflex_fleet_*.whl
	@for part in shared gateway worker; do $(UV) build --quiet --wheel --build-constraints requirements.lock --require-hashes --out-dir dist $$part || exit; done

audit: $(UV) ## known holes in what the manifests bring; asks a public database
	@$(UV) audit --preview-features audit

changelog: .venv/.ready ## what the next release will say
	@$(BIN)/towncrier build --draft --version next

release: .venv/.ready ## VERSION=0.2.0: the version in its places and CHANGELOG.md from docs/changelog.d
	@TOWNCRIER=$(BIN)/towncrier deploy/release.sh $(VERSION)

lock: $(UV) ## requirements.lock anew from the manifests
	@$(UV) lock --quiet --upgrade && $(UV) export --quiet --frozen --format requirements-txt --no-emit-workspace --all-packages --all-extras --all-groups --no-header --no-annotate -o requirements.lock

clean: ## remove the environments
	rm -rf .venv .tools
