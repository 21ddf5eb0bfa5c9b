# Every target that needs the environment sets up what is missing first; when nothing is, that costs
# a fraction of a second. PYTHON only matters while .venv does not exist.

PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
WORKERS ?= 2
ARGS ?=
GPU ?=

BIN := .venv/bin
SET_UP = $(PYTHON) tools/setup_env.py $(if $(filter 1 yes true,$(GPU)),--gpu)
# -n from ARGS wins; pytest would otherwise see two of them.
PARALLEL = $(if $(filter -n% --numprocesses% no:xdist,$(ARGS)),,-n $(WORKERS))

.DEFAULT_GOAL := help
.PHONY: help setup conformance test bench clean

help:
	@echo 'make conformance   run the suite on the built-in mini detectors; report in onnxdet-report/'
	@echo 'make test          run the project'\''s own tests: ruff, mypy, pytest'
	@echo 'make bench         run every benchmarks/bench_*.py'
	@echo 'make setup         only set up .venv, as all of the above do first'
	@echo 'make clean         remove reports, caches and build artefacts; .venv stays'
	@echo
	@echo 'ARGS="..."         more arguments for pytest, e.g. ARGS="-m onnxruntime -k retinanet -n 4"'
	@echo 'GPU=1              onnxruntime-gpu in place of onnxruntime, mmcv-full with CUDA'
	@echo 'WORKERS=2          pytest processes, unless ARGS has -n'
	@echo 'PYTHON=python3.11  the interpreter that .venv is made from'

setup:
	@$(SET_UP)

conformance: setup
	$(BIN)/pytest --onnxdet --onnxdet-report onnxdet-report $(PARALLEL) $(ARGS)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(PARALLEL) $(ARGS)

bench: setup
	@set -e; for file in benchmarks/bench_*.py; do \
	    [ -e "$$file" ] || { echo 'no benchmarks/bench_*.py here'; break; }; \
	    echo "== $$file"; $(BIN)/python "$$file"; \
	done

clean:
	rm -rf onnxdet-report build dist *.egg-info .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
