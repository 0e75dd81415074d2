# Atelier. `make` lists the targets; each installs what it needs first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BUILD := build/release
JOBS ?= $(shell nproc)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing
	@tools/setup.sh

build: setup ## build everything into build/release
	@cmake --preset release >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

demo: build ## draw a contact sheet with the small model in models/demo; MODEL=FILE names another checkpoint
	@tools/demo.sh $(BUILD)/bin/atelier $(MODEL)

test: build ## run every test
	@OMP_WAIT_POLICY=passive ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

bench: ## measure against PyTorch and OpenVINO, write bench/results
	@tools/setup.sh --bench
	@$(MAKE) --no-print-directory build
	@.venv-bench/bin/python bench/run.py --bin $(BUILD)/bin

lint: ## formatting, static checks, layers
	@tools/setup.sh --lint
	@tools/lint.sh

format: ## format the sources in place
	@tools/setup.sh --lint
	@tools/lint.sh --fix

check-cuda: ## compile and link the CUDA code (needs no GPU)
	@tools/setup.sh --cuda
	@tools/check_cuda.sh

asan: setup ## torch-free libraries under address and undefined-behaviour sanitizers
	@cmake --preset asan >/dev/null
	@cmake --build build/asan -j $(JOBS)
	@ctest --test-dir build/asan --output-on-failure -j $(JOBS)

clean: ## remove build folders
	rm -rf build

.PHONY: help setup build demo test bench lint format check-cuda asan clean
