# Every target that needs the environment sets up what is missing first; when nothing is, that costs
# a fraction of a second. PYTHON only matters while .venv does not exist.

PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
WORKERS ?= 2
ARGS ?=
GPU ?=
RTX ?=
MMCV_STOCK ?=

BIN := .venv/bin
REPORT := onnxdet-report
YES := 1 yes true on
NO := 0 no false off
# A switch that is misspelt would be off without a word.
$(foreach switch,GPU RTX MMCV_STOCK,$(if $(filter-out $(YES) $(NO),$($(switch))),\
  $(error $(switch)=$($(switch)): use $(switch)=1, or leave it out)))
SET_UP = $(PYTHON) tools/setup_env.py \
         $(if $(filter $(YES),$(GPU)),--gpu) $(if $(filter $(YES),$(RTX)),--rtx) \
         $(if $(filter $(YES),$(MMCV_STOCK)),--stock)
# -n from ARGS wins; pytest would otherwise see two of them.
PARALLEL = $(if $(filter -n% --numprocesses% no:xdist,$(ARGS)),,-n $(WORKERS))

.DEFAULT_GOAL := help
.PHONY: help setup conformance nightly structure test bench clean

help:
	@echo 'make conformance   run the suite on the built-in mini detectors; report in $(REPORT)/'
	@echo 'make nightly       the minis at batch 1, 2 and 4; TensorRT'\''s graphs of them on ONNX Runtime'
	@echo '                   at batch 1 and 2; every opset; the tests that take long;'
	@echo '                   one config of each of MMDetection'\''s structures;'
	@echo '                   results in $(REPORT)/nightly-*'
	@echo 'make structure     the full-size detectors with random weights, model by model; takes an hour'
	@echo 'make test          run the project'\''s own tests: ruff, mypy, pytest'
	@echo 'make bench         run every benchmarks/bench_*.py; fails where one says NOT HELD'
	@echo 'make setup         only set up .venv, as all of the above do first'
	@echo 'make clean         remove reports, caches and build artefacts; .venv stays'
	@echo
	@echo 'ARGS="..."         more arguments for pytest, e.g. ARGS="-m onnxruntime -k retinanet -n 4";'
	@echo '                   of make structure: for tools/structure_table.py, e.g. ARGS="--models ssd"'
	@echo 'GPU=1              onnxruntime-gpu in place of onnxruntime, mmcv-full with CUDA'
	@echo 'RTX=1              also install tensorrt-rtx-cu13: check build makes TensorRT engines, GPU or not'
	@echo 'MMCV_STOCK=1       compile mmcv-full file by file, as its setup.py does: 9 minutes instead of 2'
	@echo 'WORKERS=2          pytest processes, unless ARGS has -n'
	@echo 'PYTHON=python3.11  the interpreter that .venv is made from'

setup:
	@$(SET_UP)

conformance: setup
	$(BIN)/pytest --onnxdet --onnxdet-report $(REPORT) $(PARALLEL) $(ARGS)

# All of them run, whatever one of them finds.
nightly: setup
	@mkdir -p $(REPORT)
	@failed=0; set -x; \
	$(BIN)/pytest --onnxdet --onnxdet-backend=onnxruntime --onnxdet-batch=1,2,4 \
	    --onnxdet-report=$(REPORT)/nightly-onnxruntime $(PARALLEL) $(ARGS) || failed=1; \
	$(BIN)/pytest --onnxdet --onnxdet-backend='onnxruntime[tensorrt-lowering]' --onnxdet-batch=1,2 \
	    --onnxdet-report=$(REPORT)/nightly-tensorrt-lowering $(PARALLEL) $(ARGS) || failed=1; \
	$(BIN)/python tools/opset_table.py --out $(REPORT)/nightly-opsets.md || failed=1; \
	$(BIN)/pytest tests -m nightly $(PARALLEL) $(ARGS) || failed=1; \
	$(BIN)/onnxdet coverage -n $(WORKERS) --out $(REPORT)/nightly-coverage.md > /dev/null || failed=1; \
	exit $$failed

structure: setup
	$(BIN)/python tools/structure_table.py $(ARGS)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(PARALLEL) $(ARGS)

bench: setup
	@failed=0; for file in benchmarks/bench_*.py; do \
	    echo "== $$file"; $(BIN)/python "$$file" || failed=1; \
	done; exit $$failed

clean:
	rm -rf $(REPORT) build dist *.egg-info .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
