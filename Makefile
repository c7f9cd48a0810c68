# Every target sets up what it needs in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT ?= out
SHARED := $(wildcard ../shared)

.PHONY: help demo test rtx lint typecheck campaign bench gpu-check gpu-train gpu-bench clean

help:
	@echo "make demo       find the expression in a packaged photo (no torch needed)"
	@echo "make test       install the development extras and run the tests"
	@echo "make rtx        add NVIDIA's TensorRT-RTX builder, 300 MB, whose tests skip without it (Linux x86-64)"
	@echo "make lint       ruff;  make typecheck: mypy"
	@echo "make campaign   the long tests;  make bench: regenerate benchmarks/results"
	@echo "    make bench PART='zoo peers': some of startup, pcp, evaluation, crops, precisions, latency, zoo, peers, video"
	@echo "make gpu-check | gpu-train | gpu-bench   on a GPU machine, or CPU=1 at toy size, in MINUTES;"
	@echo "    gpu-bench SWEEP=1 also tries the kernels' launch settings; WAIT_FOR=FILE: it measures when FILE is there; COMMIT=... names the commit in the record;"
	@echo "    gpu-train trains MODEL=A,B (default: two teachers, then poster-mini by them; by name alone: poster-nano by all three,"
	@echo "    poster, poster-48, poster-mini-alone, poster-micro, cf-dan-nano, fer-vt-nano, poster-nano-sam) and reads"
	@echo "    DATA (default carry/):"
	@echo "    fer2013_train_valid.npz, for POSTER fer2013_mesh_train_valid.npz"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[faces]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	# For one file of it, the protobufs of Triton's config.pbtxt; what it depends on wants an older protobuf.
	$(PIP) --no-deps tritonclient==2.73.0
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	@mkdir -p $(OUT)
	$(BIN)/poster-edge run --source poster_edge/zoo/samples/astronaut.jpg --save $(OUT)/demo.jpg
	@echo "annotated picture: $(OUT)/demo.jpg"

# One process a core, each with one thread; a file's tests stay together, they share what they build.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Without their dependencies, which no registry carries; nothing but the libraries inside is used.
rtx: $(VENV)/.dev
	$(PIP) --no-deps onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116

campaign: $(VENV)/.dev
	$(BIN)/python -m pytest -m campaign

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Stubs in a folder of their own: beside other packages they would hide a TensorRT, or pass for one.
build/stubs/.done: | $(BIN)/python
	$(PIP) --no-deps --target build/stubs tensorrt-stubs==10.13.0.35.1
	@# Two slips of their generator that no parser of Python takes.
	sed -i -e 's/, in: /, in_: /' -e 's/, channel_axis: int)/, channel_axis: int = ...)/' build/stubs/tensorrt_bindings/tensorrt.pyi
	@touch $@

# mypy sees the package as it is installed: a tree of links with export/, calib/ and kernels/ inside.
typecheck: $(VENV)/.dev build/stubs/.done
	@rm -rf build/types && mkdir -p build/types/poster_edge
	@for entry in poster_edge/*; do ln -s "$(CURDIR)/$$entry" build/types/poster_edge/; done
	@for part in export calib kernels; do ln -s "$(CURDIR)/$$part" build/types/poster_edge/$$part; done
	cd build/types && MYPYPATH=$(CURDIR)/build/stubs $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p poster_edge

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run_all.py $(if $(SHARED),--shared $(SHARED)) $(PART:%=--part %)

GPU_PYTHON := $(if $(CPU),$(BIN)/python,$(PYTHON))
GPU_FLAGS := --out $(OUT) $(if $(CPU),--cpu) $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL)) $(if $(SWEEP),--sweep) \
	$(if $(MINUTES),--minutes $(MINUTES)) $(if $(WAIT_FOR),--wait-for $(WAIT_FOR))
gpu-check gpu-train gpu-bench: $(if $(CPU),$(VENV)/.dev)
	@mkdir -p $(OUT)
	$(GPU_PYTHON) benchmarks/gpu.py $(@:gpu-%=%) $(GPU_FLAGS)

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache *.egg-info
