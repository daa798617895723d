# make train | test | test-all | check | docs | bench | compare | results | memory | ranks | ray | plan | faults | gpu | clients | clean. Choose interpreter and environment:
#   make test PYTHON=python3.12 VENV=/tmp/venv
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: train test test-all check tables docs site bench compare results memory ranks ray plan faults gpu clients format clean

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python >= 3.11 is needed, got " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing vit-patch-env and its dependencies into $(VENV): a minute or more, about 5 GB with CUDA.'
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[dev]'
	touch $@

train: $(READY)   ## train AgentViT on the digits that ship with scikit-learn
	$(BIN)/vit-patch train

test: $(READY)    ## run the test suite, a process per core: make test TEST='-n 0 tests/test_env.py'
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(TEST)

test-all: $(READY)  ## the test suite with all cases of every test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m 'long or not long' $(TEST)

check: $(READY)   ## formatting, linting and types, as in continuous integration
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tables: $(READY)  ## write the tables in docs/ that are generated from the code
	$(BIN)/python -m vit_patch_env.experiments.docs

docs: $(READY)    ## check these tables, and build the site in build/site: strictly, with all links checked
	$(BIN)/python -m vit_patch_env.experiments.docs --check
	# With --quiet, --strict would not see the warnings.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

site: docs

bench: $(READY)   ## measure steps and epochs against the baselines: make bench BENCH='--dataset cifar10'
	$(BIN)/vit-patch bench $(BENCH)

compare: $(READY) ## train all methods: make compare COMPARE='--preset table2 --jobs 1'
	$(BIN)/vit-patch compare $(COMPARE)

results: $(READY) ## write the reports in results/ and the results in docs/comparing.md
	$(BIN)/vit-patch report results/table2-cpu --readme docs/comparing.md
	$(BIN)/vit-patch report results/budget-cpu
	$(BIN)/vit-patch report results/budget-cpu-seconds
	$(BIN)/vit-patch report results/budget-cpu-half
	$(BIN)/vit-patch report results/budget-cpu-31s
	$(BIN)/vit-patch report results/budget-mid
	$(BIN)/vit-patch report results/tasks

memory: $(READY)  ## 20,000 steps and 1,000 resets: memory and open files must not grow
	$(BIN)/python -m pytest -m long -s tests/test_memory_growth.py

ray: $(VENV)/.ray  ## runs on a Ray cluster of two nodes, one of which is killed
	$(BIN)/python -m pytest -n 0 -m 'long or not long' tests/test_ray.py

$(VENV)/.ray: $(READY)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[dev,ray]'
	touch $@

ranks: $(READY)   ## several processes train one ViT, are compared with one, and killed
	$(BIN)/python -m pytest -m 'long or not long' tests/test_ranks.py

plan: $(READY)    ## plan trainings by one process and two, train them, and compare: nothing else should run
	$(BIN)/python -m tests.planned

faults: $(READY)  ## kill runs, fill disks, damage files; write the outcome to docs/reliability.md
	$(BIN)/python -m pytest -m 'long or not long' tests/test_run_checkpoint.py tests/test_faults.py \
		tests/test_process_groups.py tests/test_workers.py tests/test_pretrain.py tests/test_extension.py \
		tests/test_container.py tests/test_interrupted_starts.py tests/test_kept_kernels.py
	TRIED_MORE=20 $(BIN)/python -m pytest tests/test_inputs.py
	$(BIN)/python -m pytest -s -m 'long or not long' tests/test_fuzzing.py
	$(BIN)/python -m tests.faults $(FAULTS)

gpu: $(READY)     ## tests, benchmarks and comparisons on CUDA: make gpu GPU='--minutes 10'; again, it continues
	$(BIN)/vit-patch measure --device cuda --out results/gpu $(GPU)

clients: $(VENV)/.clients  ## drive the environment with other frameworks: make clients CLIENTS='torchrl'
	$(BIN)/python -m tests.clients $(CLIENTS)

$(VENV)/.clients: $(READY)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[dev,clients]'
	touch $@

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
