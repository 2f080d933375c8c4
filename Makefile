# One environment for everything, made from nothing: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: the tests run in as many processes as there are cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup demo test test-quick test-optional torture soak check format audit-dependencies licences dist docs release bench \
	hostile evidence evidence-gpu gpu-check clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(VENV)/.ready ## Make the environment

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: setup ## Run the whole pipeline on generated images, into demo/
	$(BIN)/ccrop demo demo

test: setup ## Run the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto

test-quick: setup ## Run the tests that are not slow, in under a minute
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto -m 'not slow'

# Trackio wants an older Pillow than ours, so these stand in an environment of their own that sees
# all of the other one.
OPTIONAL := build/optional
test-optional: setup ## Test W&B, MLflow, Trackio and Lance, which are not installed for `make test`
	$(BIN)/python -m venv $(OPTIONAL)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" \
		> $$($(OPTIONAL)/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth
	$(OPTIONAL)/bin/pip install --quiet wandb mlflow-skinny trackio pylance
	$(ONE_THREAD) $(OPTIONAL)/bin/python -m pytest -n auto -rs tests/training/test_loggers.py \
		tests/adapters/test_frameworks_page.py

torture: setup ## Kill, tear and fail every file operation, and every request to a store (hours; goes on)
	nice -n 10 $(BIN)/python tests/faults/torture.py build/torture.jsonl --page docs/reliability.md
	nice -n 10 $(BIN)/python tests/faults/store_torture.py build/store-torture.jsonl --page docs/reliability.md

soak: setup ## Train and refresh, killed every 8 to 60 s, for MINUTES; goes on where it was
	nice -n 10 $(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60) --folder build/soak

fuzz: setup ## Fuzz the readers of tars and box sets, guided by coverage; SECONDS_EACH says for how long
	$(BIN)/pip install --quiet atheris
	mkdir -p build/fuzz/tar build/fuzz/box_set
	for of in tar box_set; do nice -n 10 $(BIN)/python tests/hostile/fuzz_$$of.py build/fuzz/$$of \
		-artifact_prefix=build/fuzz/ -max_len=20000 -print_final_stats=1 \
		-max_total_time=$(or $(SECONDS_EACH),600) || exit 1; done

check: setup ## Lint, check formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit-dependencies: setup ## Look the installed packages up among known vulnerabilities
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

licences: setup ## Write docs/licences.md from the metadata of what is installed
	$(BIN)/python .ci/licences.py

dist: setup ## Build wheel and source distribution into dist/
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist
	$(BIN)/twine check --strict dist/*

release: dist ## Build both, install each in an environment of its own, and take docs/tour.md there
	$(BIN)/python .ci/distributions.py dist/*

docs: setup ## Build the documentation as a site in build/site; a warning is an error
	rm -rf build/docs build/site
	mkdir -p build/docs
	cp -r README.md CONTRIBUTING.md RELEASING.md CHANGELOG.md CITATION.cff LICENSE docs lab examples build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

hostile: PAGE := docs/reliability.md
hostile: setup ## Read thousands of damaged inputs of every kind; count by verdict
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_texts.py 5500 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_boxsets.py 4000 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_sources.py 1500 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_images.py 2000 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_weights.py 2500 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_runs.py 1000 $(PAGE)
	$(ONE_THREAD) $(BIN)/python tests/hostile/hostile_commands.py 1000 $(PAGE)

bench: setup ## Time loading and augmenting of views against others, into build/bench.json; DATA names the images
	$(BIN)/python -m benchmarks.views run $(DATA) --out build/bench.json

evidence: setup ## Write lab/evidence.md from lab/results/evidence.jsonl
	$(BIN)/python -m benchmarks.evidence page

evidence-gpu: ## Train ResNet-18 on Tiny-ImageNet, arm by arm, for SECONDS on a GPU; IMAGES and OUT are folders
	mkdir -p $(OUT)
	test -e $(OUT)/evidence.jsonl || cp lab/results/evidence.jsonl $(OUT)/
	$(PYTHON) -m benchmarks.evidence run --study tiny-gpu --device auto --seconds $(or $(SECONDS),540) \
		--images $(IMAGES) --out $(OUT)

gpu-check: ## Check and time the GPU paths; PYTHON names an interpreter that has the dependencies
	$(PYTHON) benchmarks/gpu_check.py

clean: ## Remove the environment and all that was built
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache
