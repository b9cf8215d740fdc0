# One venv in .venv; every target installs what it needs, and only that.
#
#   make demo     the embedded model, plain and with all hooks; pictures go to demo/
#   make test     all tests
#   make ci       everything that must hold before a commit lands
#
# PYTHON=python3.12 chooses the interpreter the venv is made with (3.11 or later).

PYTHON ?= python3
PROMPT := a red circle left of a blue square
BIN := .venv/bin

# The embedded model is small: with several threads each operation waits longer than it computes.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test slow laws grid nightly gpu lint types layers docs site plugin picture truth causal attributions bench ci clean

demo: .venv/run.stamp
	$(BIN)/sdprobe "$(PROMPT)" --seed 4 --steps 30 --guidance-scale 5 --out demo/plain
	$(BIN)/sdprobe "$(PROMPT)" --seed 4 --steps 30 --guidance-scale 5 --out demo/swapped \
		--hook latents --hook replace-token:word=red,with_=green

test: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests that take long and seldom break.
slow: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# The state machine of stacks, runs, errors and threads, tried longer than among the tests; nightly, all night, and with
# examples that no test has tried before.
laws: .venv/test.stamp
	HYPOTHESIS_PROFILE=short $(BIN)/python -m pytest tests/laws/test_machine.py

# Every hook held to every law on a model of every family, by sample and attached; the tests do it with one hook.
grid: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal -m grid tests/test_grid.py tests/test_round_trip.py

nightly: .venv/test.stamp
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/laws
	HYPOTHESIS_PROFILE=anew $(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow
	$(BIN)/python -m pytest -n 2 --dist worksteal -m nightly
	$(BIN)/python -m pytest -n 2 --dist worksteal -m gallery tests/test_examples.py

# On a machine with a CUDA device: the tests that need one, and what looking costs there. On any other it says so.
# GPU_OPTIONS="--out costs.md --only SDXL" gives the benchmark options.
gpu: .venv/test.stamp
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(BIN)/python -m pytest -m gpu tests; \
		$(BIN)/python tests/benchmarks/gpu_kernels.py; \
	fi
	@$(BIN)/python tests/benchmarks/gpu.py $(GPU_OPTIONS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

layers: .venv/test.stamp
	$(BIN)/lint-imports

# From nothing: an example that failed once would otherwise be taken as done.
docs: .venv/dev.stamp
	rm -rf site docs/gallery
	MPLBACKEND=Agg NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The built site in a browser: every page, the search, nothing fetched from elsewhere.
site: .venv/dev.stamp
	SITE=site $(BIN)/python -m pytest tests/site -rs

# Somebody else's package: installed, listed, used by name, and held to the laws.
plugin: .venv/test.stamp
	$(BIN)/python -m pip install --quiet --no-deps ./examples/plugin
	$(BIN)/sdprobe hooks | grep attention-entropy
	$(BIN)/python -m pytest examples/plugin

# The picture on the front page, made by the lines printed beside it.
picture: .venv/run.stamp
	$(BIN)/python docs/picture.py

truth: .venv/test.stamp
	$(BIN)/python tests/benchmarks/rendered_truth.py

# What the embedded model's words, sites and maps are needed for: the numbers of the page on experiments.
causal: .venv/test.stamp
	$(BIN)/python tests/benchmarks/causal_experiments.py

# Every method of attribution beside the others, held against where things are; some twenty minutes.
attributions: .venv/test.stamp
	$(BIN)/python tests/benchmarks/attributions.py --write

bench: .venv/test.stamp
	set -e; for script in tests/benchmarks/*.py; do $(BIN)/python "$$script"; done

ci: test slow laws grid lint types layers docs site plugin

clean:
	rm -rf site docs/gallery demo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("sdprobe needs Python 3.11 or later: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/run.stamp: EXTRAS :=
.venv/test.stamp: EXTRAS := [test]
.venv/dev.stamp: EXTRAS := [dev]
.venv/%.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".$(EXTRAS)"
	touch $@
