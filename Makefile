# make demo and make test are all that a newcomer needs; make help lists the rest.

GO      ?= go
PYTHON  ?= python3
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X github.com/fmoe-go/fmoe/internal/cli.version=$(VERSION)

GOLANGCI_LINT_VERSION = v2.15.0

# Packages that start goroutines, or are used by several.
CONCURRENT = ./onnx ./runtime ./runtime/comm ./runtime/comm/rendezvous ./runtime/cpu ./runtime/language ./runtime/train/data

SAMPLES = $(patsubst models/%/model.onnx,%,$(wildcard models/*/model.onnx))
SHARED  = $(wildcard ../shared/models/*.onnx)
REWRITE = --num-experts 8 --top-k 2

.PHONY: help build cuda cuda-test test race mpi mpi-test mpi-kill-test lint fuzz demo verify merge big conformance zoo compare experts bench bench-smoke plots split routing demo-train train-split plan-check worker-speed clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15

build: ## build bin/fmoefy and bin/moerun, static, without cgo
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# CUDA_HOME may name an installed toolkit, of CUDA 12 or 13; else the compiler and headers come from PyPI.
CUDA_TARGETS ?= sm_80,sm_90a,compute_80
cuda: cuda-kernels ## build bin/moerun with the CUDA device (needs gcc and Python, no GPU)
	build/cuda/lib/env $(GO) build -trimpath -tags fmoecuda -ldflags '$(LDFLAGS)' -o bin/ ./cmd/moerun

.PHONY: cuda-kernels cuda-package
cuda-kernels: build/cuda/venv/ready
	build/cuda/venv/bin/python cuda/build.py --out build/cuda/lib --targets $(CUDA_TARGETS)

cuda-test: cuda-kernels ## test the CUDA device as far as this machine can
	build/cuda/lib/env $(GO) vet -tags fmoecuda ./cuda/... ./runtime ./runtime/comm/... ./cmd/moerun
	build/cuda/lib/env $(GO) test -tags fmoecuda ./cuda/... ./runtime/comm/nccl ./cmd/moerun

cuda-package: cuda-kernels ## put the programs of scripts/gpu-check.sh, for a machine with a GPU, into build/cuda/package
	@mkdir -p build/cuda/package
	build/cuda/lib/env $(GO) build -trimpath -tags fmoecuda -ldflags '$(LDFLAGS)' -o build/cuda/package/ ./cmd/moerun
	build/cuda/lib/env $(GO) test -c -tags fmoecuda -ldflags '-s -w' -o build/cuda/package/cuda.test ./cuda
	build/cuda/lib/env $(GO) test -c -tags fmoecuda -ldflags '-s -w' -o build/cuda/package/runtime.test ./runtime
	build/cuda/lib/env $(GO) test -c -tags fmoecuda -ldflags '-s -w' -o build/cuda/package/nccl.test ./runtime/comm/nccl

build/cuda/venv/ready: cuda/requirements.txt
	$(PYTHON) -m venv build/cuda/venv
	$(if $(CUDA_HOME),,build/cuda/venv/bin/python -m pip install --quiet --requirement $<)
	@touch $@

test: ## run all tests
	$(GO) test ./...

race: ## test the concurrent packages with the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race $(CONCURRENT)

mpi: ## build bin/moerun-mpi, whose workers mpirun and srun start (needs mpicc of Open MPI or MPICH)
	CGO_ENABLED=1 CC=mpicc $(GO) build -trimpath -tags mpi -ldflags '$(LDFLAGS)' -o bin/moerun-mpi ./cmd/moerun

mpi-test: ## test workers over MPI, killed ones too (needs mpicc and mpirun)
	CGO_ENABLED=1 CC=mpicc $(GO) vet -tags mpi ./runtime/comm/mpi ./cmd/moerun
	CGO_ENABLED=1 CC=mpicc $(GO) test -tags mpi -count=1 ./runtime/comm/mpi
	CGO_ENABLED=1 CC=mpicc $(GO) test -tags mpi -count=1 -run 'MPI|(Killed|Stopped)Workers' ./cmd/moerun

KILLS = 30
mpi-kill-test: ## kill KILLS workers of runs over MPI, stop as many, compare with runs that nothing disturbs
	CGO_ENABLED=1 CC=mpicc $(GO) test -tags mpi -count=1 -v -timeout 60m -run '(Killed|Stopped)Workers' ./cmd/moerun -kills $(KILLS)

GOLANGCI_LINT = build/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)
lint: $(GOLANGCI_LINT) ## check format, go vet, staticcheck and more (.golangci.yml)
	$(GOLANGCI_LINT) run ./...

$(GOLANGCI_LINT):
	@mkdir -p build/tools
	GOBIN=$(CURDIR)/build/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv build/tools/golangci-lint $@

FUZZTIME = 30s
fuzz: ## fuzz the decoder, gates, the rewriter, the converter, the runtime, descriptions of clusters, corpora and logs of training for FUZZTIME each
	GO=$(GO) internal/tools/fuzz.sh ./onnx FuzzDecode $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/moe FuzzGate $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./fmoefy FuzzRewrite $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./fmoefy FuzzConvert $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime FuzzRun $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/routing FuzzWatch $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/plan FuzzParseCluster $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/train/data FuzzMegatron $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/train/data FuzzText $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/train/safetensors FuzzParse $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/train/report FuzzLog $(FUZZTIME)
	GO=$(GO) internal/tools/fuzz.sh ./runtime/train/checkpoint FuzzManifest $(FUZZTIME)

GPT = models/gpt-megatron
demo: build ## rewrite a trained GPT into 8 experts, run both on text, let it write
	@mkdir -p build/demo
	@echo "== fmoefy: $(GPT) with 8 experts, 2 for each token"
	@bin/fmoefy $(GPT)/model.onnx -o build/demo/moe.onnx $(REWRITE)
	@echo; echo "== moerun perplexity: the last tenth of the book, which the model has not seen, dense and mixture of experts"
	@bin/moerun perplexity $(GPT)/model.onnx --text $(GPT)/heldout.txt --max-tokens 8193
	@bin/moerun perplexity build/demo/moe.onnx --text $(GPT)/heldout.txt --max-tokens 8193
	@echo; echo "== moerun generate: the mixture of experts writes"
	@bin/moerun generate build/demo/moe.onnx --prompt 'The Rays of Light' --max-tokens 200 --temperature 0.6 --top-p 0.95 --seed 4

# The book that the sample was trained on; its last tenth is the held-out text.
BOOK = $(shell $(GO) env GOROOT)/src/testdata/Isaac.Newton-Opticks.txt
TRAIN = build/train
$(TRAIN)/book.txt:
	@mkdir -p $(TRAIN)
	head -c -$$(wc -c < $(GPT)/heldout.txt) $(BOOK) > $@

TRAIN_STEPS = 300
TRAIN_FLAGS = --data $(TRAIN)/book.txt --evaluate $(GPT)/heldout.txt --steps $(TRAIN_STEPS) --batch 8 --length 256 --json
demo-train: build $(TRAIN)/book.txt ## train the sample GPT further, dense and upcycled to 8 experts, compare, draw a report
	@rm -rf $(TRAIN)/dense $(TRAIN)/moe
	bin/fmoefy $(GPT)/model.onnx -o $(TRAIN)/moe.onnx --num-experts 8 --gate sigmoid --selection-bias --seed 1
	bin/moerun train $(GPT)/model.onnx --output $(TRAIN)/dense $(TRAIN_FLAGS) > $(TRAIN)/dense.json
	bin/moerun train $(TRAIN)/moe.onnx --output $(TRAIN)/moe $(TRAIN_FLAGS) --report $(TRAIN)/report.html > $(TRAIN)/moe.json
	bin/moerun export $(TRAIN)/moe -o $(TRAIN)/trained.onnx
	$(GO) run ./internal/tools/trained --variation 0.3 $(TRAIN)/dense.json $(TRAIN)/moe.json
	bin/moerun generate $(TRAIN)/trained.onnx --prompt 'The Rays of Light' --max-tokens 200 --temperature 0.6 --top-p 0.95 --seed 4

# Muon, since two minutes are few for experts that begin as parts of the MLP.
train-split: build $(TRAIN)/book.txt ## train the sample GPT split into 8 experts, 2 for each token, compare with the dense model
	@rm -rf $(TRAIN)/start $(TRAIN)/split
	bin/fmoefy $(GPT)/model.onnx -o $(TRAIN)/split.onnx --num-experts 8 --top-k 2 --init split --calibrate $(TRAIN)/book.txt
	bin/moerun train $(GPT)/model.onnx --output $(TRAIN)/start $(TRAIN_FLAGS) --steps 1 --learning-rate 0 > $(TRAIN)/start.json
	bin/moerun train $(TRAIN)/split.onnx --output $(TRAIN)/split $(TRAIN_FLAGS) --steps 600 --optimizer muon --learning-rate 2e-3 \
		--warmup 20 --set optimizer.weight_decay=1.5 --set schedule.minimum=0 > $(TRAIN)/split.json
	$(GO) run ./internal/tools/trained --ratio 1.05 $(TRAIN)/start.json $(TRAIN)/split.json

merge: build ## split the sample GPT over two tensor-parallel ranks, merge them, compare
	@mkdir -p build/merge
	$(GO) run ./internal/tools/megatronsplit --ranks 2 --out build/merge
	bin/fmoefy merge build/merge/rank_00.onnx build/merge/rank_01.onnx -o build/merge/full.onnx
	bin/moerun compare $(GPT)/model.onnx build/merge/full.onnx

big: build ## rewrite a dense model of 3 GB, show memory and time (10 GB of disk, Linux)
	$(GO) run ./internal/tools/bigmodel

verify: build ## check every sample, and compare it with its rewriting
	@mkdir -p build/verify
	@set -e; for name in $(SAMPLES); do \
		echo "== $$name"; \
		for data in models/$$name/test_data_set_*; do \
			bin/moerun run models/$$name/model.onnx --data $$data --check --rtol 1e-3 --atol 1e-5; \
		done; \
		bin/fmoefy models/$$name/model.onnx -o build/verify/$$name.onnx $(REWRITE) > build/verify/$$name.txt; \
		for data in models/$$name/test_data_set_*; do \
			bin/moerun compare models/$$name/model.onnx build/verify/$$name.onnx --data $$data; \
		done; \
	done
	@set -e; for file in $(SHARED); do \
		echo "== $$file"; \
		bin/fmoefy $$file --list; \
		bin/fmoefy $$file -o build/verify/shared.onnx $(REWRITE) > build/verify/shared.txt; \
		bin/moerun compare $$file build/verify/shared.onnx; \
	done

conformance: ## run ONNX's operator cases and write docs/operators.md
	$(GO) run ./internal/tools/conformance

zoo: ## measure the model zoo and write the table of docs/zoo.md
	$(GO) test ./models/zoo -run '^TestDocument$$' -count=1 -update

# com.microsoft::MoE has no experts gated by a GELU, which T5's are.
TARGETS = $(foreach name,$(SAMPLES),$(name)/portable $(name)/standard) $(foreach name,$(filter-out t5,$(SAMPLES)),$(name)/onnxruntime)
# Gates that drop tokens.
GATED = gpt-megatron/portable.gshard gpt-megatron/standard.switch bert/portable.expert-choice bert/standard.expert-choice
compare: build build/venv/ready experts ## compare the samples and their rewritings for all targets in ONNX Runtime with moerun (needs Python)
	@rm -rf build/compare
	@set -e; for file in $(TARGETS) $(GATED); do \
		name=$${file%/*}; target=$${file##*/}; out=build/compare/$$file; mkdir -p $$out; gate=; \
		case $$target in *.*) gate="--gate $${target#*.} --capacity-eval 0.8 --init noise --gate-std 0.5"; target=$${target%.*};; esac; \
		approximate=; if [ $$target = onnxruntime ]; then approximate=--allow-gelu-approximation; fi; \
		bin/fmoefy models/$$name/model.onnx -o $$out.onnx --num-experts 8 --target $$target $$approximate $$gate --json > $$out.json; \
		for data in models/$$name/test_data_set_*; do \
			bin/moerun run $$out.onnx --data $$data --out $$out/$${data##*/} --format pb > $$out.txt; \
		done; \
	done
	build/venv/bin/python models/compare.py --rewritten build/compare

# Two copies of the sample GPT, each trained further on one half of a text, become the experts of one model.
EXPERTS = build/experts
experts: build build/venv/ready ## train two copies of the sample GPT further, merge them into experts, compare (needs Python)
	@rm -rf $(EXPERTS)
	build/venv/bin/python models/train_halves.py --out $(EXPERTS)
	bin/fmoefy $(GPT)/model.onnx -o $(EXPERTS)/merged.onnx --expert 0=$(EXPERTS)/go.onnx --expert 1=$(EXPERTS)/assembly.onnx \
		--rest average --prompts $(EXPERTS)/prompts.jsonl --prompts-contrast
	@cp $(GPT)/model.onnx $(EXPERTS)/base.onnx
	@set -e; for model in base go assembly merged; do \
		mkdir -p $(EXPERTS)/perplexity/$$model; \
		for half in go assembly; do \
			bin/moerun perplexity $(EXPERTS)/$$model.onnx --text $(EXPERTS)/$$half.txt --max-tokens 8193 --json > $(EXPERTS)/perplexity/$$model/$$half.json; \
		done; \
	done
	build/venv/bin/python models/compare_halves.py $(EXPERTS)/perplexity

build/venv/ready: models/requirements-compare.txt
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet --requirement $<
	@touch $@

ROWS ?= *
bench: build build/venv/peers ## measure against ONNX Runtime and PyTorch, write docs/benchmarks.md (needs Python; ROWS='tokens-*,bert' for a part)
	$(GO) run ./internal/tools/bench --python build/venv/bin/python --only '$(ROWS)' --document docs/benchmarks.md

bench-smoke: build ## run every kind of benchmark once, on tiny models
	@rm -rf build/bench-smoke
	$(GO) run ./internal/tools/bench --smoke --dir build/bench-smoke

# PyTorch, large as it is, is one of the peers where it can be had.
build/venv/peers: build/venv/ready
	-build/venv/bin/python -m pip install --quiet $$(grep '^torch==' models/requirements.txt)
	@touch $@

split: build ## split the sample GPT into 8 experts, calibrated; perplexity for top-k 1 to 8, drawn into docs/, and time of the MLPs
	@mkdir -p build/split
	head -c -$$(wc -c < $(GPT)/heldout.txt) $(BOOK) > build/split/training.txt
	@set -e; for k in 1 2 3 4 5 6 7 8; do \
		bin/fmoefy $(GPT)/model.onnx -o build/split/$$k.onnx --num-experts 8 --top-k $$k --init split --calibrate build/split/training.txt > build/split/$$k.txt; \
		bin/moerun perplexity build/split/$$k.onnx --text $(GPT)/heldout.txt --json > build/split/$$k.json; \
	done
	@set -e; for round in 1 2 3 4 5; do \
		bin/moerun bench $(GPT)/model.onnx --dim batch=8,sequence=256 --threads 1 --profile --json > build/split/dense-$$round.json; \
		bin/moerun bench build/split/2.onnx --dim batch=8,sequence=256 --threads 1 --profile --json > build/split/split-$$round.json; \
	done
	$(GO) -C internal/tools/plots run . --split $(CURDIR)/build/split --out $(CURDIR)/docs

worker-speed: ## time a layer of experts on four workers over slow connections, with and without what hides them
	FMOE_MEASURE=1 $(GO) test ./runtime/cpu -run TestWorkerSpeed -count=1 -v

plan-check: mpi ## compare predictions of moerun plan with steps of training on this machine
	$(GO) run ./internal/tools/plancheck --mpi bin/moerun-mpi

plots: ## draw the results of make bench into docs/
	$(GO) -C internal/tools/plots run . --results $(CURDIR)/build/bench/results --out $(CURDIR)/docs

routing: build ## draw which experts the sample GPT chooses into docs/
	@mkdir -p build/routing
	bin/fmoefy $(GPT)/model.onnx -o build/routing/moe.onnx --num-experts 16 --gate switch --init noise --noise-scale 0.05 --seed 7 > build/routing/moe.txt
	bin/moerun routing build/routing/moe.onnx --text $(GPT)/heldout.txt --max-tokens 4097 --heatmap docs

clean: ## remove what was built
	rm -rf bin build
