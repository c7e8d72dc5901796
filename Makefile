# One target a chore; `make help` lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test every-test compiled coverage test-deep test-debian13 test-recipes unit lint format bench bench-paired soak docs job-fields sites clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements.lock scripts/prepare
	scripts/prepare "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(READY) ## a whole cluster and the gateway on this machine, with a tour; ONCE=1 ends after the tour
	@$(BIN)/hpcgate demo $(if $(ONCE),--once)

# Processes that `make test` shares its files among. More than there are cores: of a test's time, more than half is waiting
# for Slurm, for sshd, and for what is to end by itself. Each takes up to 1.5 GiB, its cluster with it.
WORKERS ?= $(shell awk -v cores=$$(nproc) '/^MemTotal/ {print cores + ($$2 > (cores + 4) * 2097152 ? 4 : 2)}' /proc/meminfo)
# What hpcgate is compiled to is kept: the tests start it several hundred times.
unexport PYTHONDONTWRITEBYTECODE

test: $(READY) ## style, types, and every test on a real sshd and a real Slurm
	@$(MAKE) --no-print-directory -j 2 lint every-test

every-test: compiled
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests compiled once, beside the linters, and not by each of the processes; what is wrong with them these tell.
compiled: $(READY)
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true

coverage: $(READY) ## branch coverage of the whole suite, the least covered modules last; TESTS=tests/config for some
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[coverage]'
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --sort=-cover

test-deep: $(READY) ## the property tests with forty times as many examples, all requests of the attacks, crosses in whole
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --hypothesis-profile deep --timeout 3600 -m "hypothesis or deep"

test-debian13: ## the tests of the cluster, of sites and of SSH on a Debian 13 made by debootstrap, as root; FRESH=1 makes it anew
	scripts/in-debian trixie sh -c 'make .venv/.ready && exec .venv/bin/python -m pytest -n 2 --dist loadfile \
	    --no-loadscope-reorder $(or $(TESTS),tests/cluster tests/sites tests/ssh)'

test-recipes: $(READY) ## every recipe of the user guide, with the versions of the day; make test leaves out what takes minutes to install
	$(BIN)/python -m pytest -m "" -rP tests/docs/test_recipes.py

unit: $(READY) ## the tests that need nothing running
	$(BIN)/python -m pytest -n $(WORKERS) -m unit --hypothesis-profile brief \
	    $(addprefix tests/,admission api auth config credentials gateway health outbound rates schedulers sharing telemetry)

lint: $(READY) ## style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## put the source in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## requests a second, overload, polling and streams, each beside a yardstick of the same run
	@missed=0; for one in benchmarks.throughput benchmarks.scaling benchmarks.overload benchmarks benchmarks.polling benchmarks.following benchmarks.transfers; do \
	    $(BIN)/python -m $$one || missed=1; \
	done; exit $$missed

bench-paired: $(READY) ## what each row of bench costs, beside another version: BEFORE=/a/checkout/with/its/.venv
	$(BIN)/python -m benchmarks.paired --before "$(BEFORE)"

soak: $(READY) ## ten minutes of load with faults, an hour of clients that break the rules, and reports; SECONDS=60 shortens both
	$(BIN)/python -m tests.faults.soak --seconds $(or $(SECONDS),600)
	$(BIN)/python -m tests.faults.fuzz --seconds $(or $(SECONDS),3600)

docs: $(READY) ## the documentation as a site in site/, every link looked at
	$(BIN)/mkdocs build --strict

job-fields: $(READY) ## docs/users/job-fields.md, its table from the schedulers' tables
	$(BIN)/python -m tests.schedulers.job_fields_page >$(READY).fields && mv $(READY).fields docs/users/job-fields.md

sites: $(READY) ## docs/operations/sites.md from the tables of the tests
	$(BIN)/python -m tests.sites >$(READY).sites && mv $(READY).sites docs/operations/sites.md

clean: ## remove what make has made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
