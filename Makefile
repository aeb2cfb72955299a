# `make fit` and `make test` need Python 3.11-3.13 and nothing else; both make .venv themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := runs
DATA   := data/sample
# Raw data of the real-photo run: BSDS500, COCO128 and a DINOv2 ViT-S, see docs/data.md.
RAW    ?= ../shared/data

# Compiled once, not by each of the processes that a run or the tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-test fit nano photos report test test-unit test-kill fuzz mutate lint format bench clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else "sam_train needs Python 3.11-3.13, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 fit")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## what training needs, into .venv
install-test: $(VENV)/.installed-test ## the same and what the tests need

fit: install ## sample photos, a first training run and its score, in minutes on a laptop
	$(BIN)/python -m data_tools.sample --out $(DATA)/train --scenes 2500 --zoom 3 --seed 0
	$(BIN)/python -m data_tools.sample --out $(DATA)/val --photos 64 --zoom 3 --per-scene 1 --seed 1 --overwrite
	$(BIN)/python -m sam_train fit +experiment=quickstart run_dir=$(RUN)/quickstart

nano: install ## the quick start's sizes trained properly: hours on 2 cores
	$(BIN)/python -m data_tools.sample --out $(DATA)/nano --scenes 20000 --zoom 3 --seed 2
	$(BIN)/python -m data_tools.sample --out $(DATA)/nano_val --photos 64 --zoom 3 --per-scene 1 --seed 1 --overwrite
	$(BIN)/python -m sam_train fit +experiment=nano run_dir=$(RUN)/nano

photos: install ## real photos from raw data (RAW=FOLDER), scored before and after: under an hour
	for part in train val; do $(BIN)/python -m data_tools.convert bsds --min-area 500 \
	    --images $(RAW)/bsds500/images/$$part --ground-truth $(RAW)/bsds500/groundTruth/$$part \
	    --out data/photos/bsds_$$part || exit; done
	$(BIN)/python -m data_tools.convert coco --images $(RAW)/coco128/images \
	    --annotations $(RAW)/coco128/instances.json --out data/photos/coco128
	$(BIN)/python -m sam_train validate +experiment=photos data.val=data/photos/coco128 \
	    init_from=dinov2:$(RAW)/weights/dinov2_vits14_fp16.pt \
	    init.rest=sam_train/assets/nano.safetensors run_dir=$(RUN)/photos/coco128_before
	$(BIN)/python -m sam_train fit +experiment=photos \
	    init_from=dinov2:$(RAW)/weights/dinov2_vits14_fp16.pt \
	    init.rest=sam_train/assets/nano.safetensors run_dir=$(RUN)/photos
	$(BIN)/python -m sam_train validate +experiment=photos data.val=data/photos/coco128 \
	    ckpt=$(RUN)/photos/checkpoints/last.ckpt run_dir=$(RUN)/photos/coco128_after

report: install ## all that the paper measures, of the real-photo run, on one page: 20 minutes
	$(BIN)/python -m sam_train evaluate task=all ckpt=$(RUN)/photos/checkpoints/last.ckpt \
	    'eval.datasets=[COCO128=coco:$(RAW)/coco128,BSDS=bsds:$(RAW)/bsds500,DSB2018=rle:$(RAW)/dsb2018,ADE20K=ade20k:$(RAW)/ade20k]' \
	    eval.images=40 points.noc=[85] points.noc_clicks=12 proposals.points_per_side=32 \
	    edges.images=$(RAW)/bsds500/images/val edges.ground_truth=$(RAW)/bsds500/groundTruth/val \
	    run_dir=$(RUN)/report

test: install-test ## all tests
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-unit: install-test ## the fast ones
	$(BIN)/python -m pytest tests/unit --numprocesses 2 --dist loadfile

test-kill: install-test ## a run of two processes, killed at random a hundred times: half an hour
	SAM_TRAIN_KILLS=100 $(BIN)/python -m pytest tests/integration/test_kills.py -s

fuzz: install-test ## 100,000 drawn inputs for each reader of files from elsewhere: an hour
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.pytest_cache/numba_bounds SAM_TRAIN_FUZZ=100000 \
	    $(BIN)/python -m pytest tests/fuzz -m fuzz --numprocesses 2

mutate: install-test ## breaks the code a little 430 times: how much of it do the unit tests notice? half an hour
	nice $(BIN)/python tests/mutation/mutate.py

lint: install-test ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-test ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment; runs and data stay
	rm -rf $(VENV)
