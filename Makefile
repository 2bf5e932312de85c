# `make demo` and `make test` set everything up by themselves in .venv; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Linux takes the CPU build of torch: the plain one brings gigabytes of CUDA packages. Where pip's own sources have no
# CPU build, PyTorch's list of wheels does.
TORCH := $(if $(filter Linux,$(shell uname -s)),torch==2.13.0+cpu,torch==2.13.0)
TORCH_WHEELS ?= https://download.pytorch.org/whl/cpu/torch/

.PHONY: help demo test test-arm64 test-gpu test-swift check bench bench-large format clean
help:
	@echo "make demo    export the sample model, verify it, draw every class at every budget (build/demo)"
	@echo "make test    all tests"
	@echo "make check   lint, format, types, import directions"
	@echo "make bench   the figures of docs/benchmarks.md, on this machine"
	@echo "make bench-large  XL/2 at 256 and 512 pixels with random weights (40 GB of disk, an hour)"
	@echo "make test-arm64  the wheel on an emulated ARM (root, debootstrap, qemu-user-static; docs/arm64.md)"
	@echo "make test-gpu    engines run on an NVIDIA GPU: parity, CUDA graphs, rebuild, ten minutes of soak (docs/tensorrt.md)"
	@echo "make test-swift  the Swift package: swift on PATH, else in a Debian root folder (root, debootstrap; clients/swift/README.md)"
	@echo "make format  let ruff rewrite what it can"
	@echo "make clean   remove .venv and build"

$(READY): pyproject.toml constraints.txt
	@echo "== setting up .venv (once; a few minutes): pinned packages, a CPU build of torch"
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
	  { echo "Python 3.11 to 3.13 is needed here: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$(TORCH)" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --find-links "$(TORCH_WHEELS)" "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[export,openvino,report,device,tensorrt,tensorrt-rtx,coreml,vae]"
	$(BIN)/python -m pip install --quiet --no-deps "tensorrt-stubs==10.13.0.35.1"
	$(BIN)/python tools/mend_tensorrt_stubs.py
	@touch $(READY)

demo: $(READY)
	@echo "== demo: sample checkpoint -> bundle -> parity gate -> pictures"
	$(BIN)/elit-edge demo --force --output build/demo

test: $(READY)
	@echo "== tests"
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

check: $(READY)
	@echo "== lint, format, types, import directions"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY)
	$(BIN)/python benchmarks/export_and_run.py
	$(BIN)/python benchmarks/runtimes.py
	$(BIN)/python benchmarks/deadlines.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/coreml.py

bench-large: $(READY)
	$(BIN)/python benchmarks/large.py build/large

test-arm64: $(READY)
	@echo "== ARM: the wheel under qemu (the first time makes a Debian root: minutes)"
	$(BIN)/python tools/arm64/run.py

test-gpu: $(READY)
	@echo "== GPU: engines that run (what is skipped says why)"
	$(BIN)/python -m pytest -m gpu -rs

test-swift: $(READY)
	@echo "== Swift: build and tests (the first time may make a Debian root: minutes, 3 GB)"
	$(BIN)/python tools/swift/run.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build
