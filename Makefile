# What a person types and what CI runs are the same words.
#
#   make demo             the model, the service and its answers; Ctrl-C ends it (ONCE=1: ends by itself)
#   make test             lint, types and the whole test suite
#   make bench            the figures of the README, kept as JSON in tests/benchmarks/results/ (hours; where cells of a
#                         table are kept already, only the others are measured)
#   make clean            removes .venv and .demo
#
#   TORCH_INDEX=URL       a second package index: its CPU builds of torch and torchvision (2.14.1+cpu) are preferred
#   IMAGENET_SAMPLES=PATH one image for each ImageNet class, for the accuracy test (a folder or its .tar)
#   CIFAR10=PATH          CIFAR-10 as images, for its benchmark: train and test folders (or their .tar)

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STUBS ?= protos
CODE := service export training protos deploy tests
ifneq ($(wildcard ../shared/data/imagenet-samples.tar),)
IMAGENET_SAMPLES ?= $(abspath ../shared/data/imagenet-samples.tar)
endif
ifneq ($(wildcard ../shared/data/cifar10.tar),)
CIFAR10 ?= $(abspath ../shared/data/cifar10.tar)
endif
ifdef IMAGENET_SAMPLES
export IMAGENET_SAMPLES
endif
IMAGES = $(if $(IMAGENET_SAMPLES),--images $(IMAGENET_SAMPLES))

.PHONY: help demo test lint bench stubs clean

help:
	@sed -n '/^#   /s/^#   //p' Makefile

demo: .venv/demo
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once)

test: .venv/dev lint
	$(BIN)/pytest -n 2

lint: .venv/dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/pydoclint -q service export training protos/vertebra/client
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

bench: .venv/dev .demo/alone/imagenet
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python -m tests.benchmarks.startup
	$(if $(IMAGENET_SAMPLES),$(BIN)/python -m tests.benchmarks.accuracy $(IMAGES))
	$(BIN)/python -m tests.benchmarks.decode $(IMAGES)
	$(BIN)/python -m tests.benchmarks.engine
	for provider in cpu openvino; do $(BIN)/python -m tests.benchmarks.serving $(IMAGES) --provider $$provider; done
	$(BIN)/python -m tests.benchmarks.stream $(IMAGES)
	$(BIN)/python -m tests.benchmarks.overload $(IMAGES)
	$(BIN)/python -m tests.benchmarks.leaks
	$(BIN)/python -m tests.benchmarks.fuzz
	$(BIN)/python -m tests.benchmarks.bottleneck --images 600
	$(BIN)/python -m tests.benchmarks.elpv
	$(BIN)/python -m tests.benchmarks.elpv --regime auto --seeds 3 --time-limit-min 10
	$(BIN)/python -m tests.benchmarks.cut --images 600
	$(BIN)/python -m tests.benchmarks.compiled
	$(BIN)/python -m tests.benchmarks.allocator
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.cifar10 --data $(CIFAR10))
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.one_epoch --data $(CIFAR10) --recipe quick --seeds 3)
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.one_epoch --data $(CIFAR10) --recipe best)
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.one_epoch --data $(CIFAR10) --recipe again)
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.crossing --data $(CIFAR10) --seeds 1 --all)
	$(if $(and $(CIFAR10),$(IMAGENET_SAMPLES)),$(BIN)/python -m tests.benchmarks.refit --data $(CIFAR10) --imagenet $(IMAGENET_SAMPLES))
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.batch_norm --cifar10 $(CIFAR10))
	$(if $(CIFAR10),$(BIN)/python -m tests.benchmarks.starts --data $(CIFAR10))
	$(if $(and $(CIFAR10),$(IMAGENET_SAMPLES)),$(BIN)/python -m tests.benchmarks.advisor --cifar10 $(CIFAR10) --imagenet $(IMAGENET_SAMPLES))

.demo/models/imagenet/1/manifest.json:
	$(MAKE) demo ONCE=1

# A repository of one model, for what is said of a service with one.
.demo/alone/imagenet: .demo/models/imagenet/1/manifest.json
	mkdir -p $(@D)
	ln -sfn ../models/imagenet $@

stubs: .venv/dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--python_out=$(STUBS) --mypy_out=quiet:$(STUBS) vertebra/v1/bundle.proto vertebra/v1/vision.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) vertebra/v1/vision.proto

clean:
	rm -rf .venv .demo build

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/pip pyproject.toml
	@echo "Installing the demo. With torch's CUDA libraries it takes 6 GB and, the first time, minutes."
	$(BIN)/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[demo]'
	@touch $@

.venv/dev: .venv/demo
	@echo "Installing what the tests need as well: about 0.3 GB."
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@
