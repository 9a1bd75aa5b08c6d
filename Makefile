# Thin targets; `make help` lists them. CARGO_TARGET_DIR is honoured, so a build cache can be shared.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
IMAGES := $(TARGET)/images
TOOLS := $(TARGET)/tools
KUBECTL_VERSION ?= 1.36.4
KUBECTL_NEXT_VERSION ?= 1.37.1
NODES ?= 1
UP_FLAGS ?=
# What /version says release binaries are made of.
COMMIT = KUBEWRIGHT_COMMIT=$$(git rev-parse HEAD 2>/dev/null || true)

.PHONY: help
help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

.PHONY: packages-build packages-run packages-test packages-fuzz packages-dist
packages-build:
	@hack/install-packages.sh build
packages-run:
	@hack/install-packages.sh run
packages-test:
	@hack/install-packages.sh build run test
packages-fuzz:
	@hack/install-packages.sh build fuzz
packages-dist:
	@hack/install-packages.sh build test dist

.PHONY: build
build: packages-build ## Release binaries of everything
	$(COMMIT) cargo build --release --workspace --exclude e2e --exclude integration --exclude bench --exclude conformance

.PHONY: dist
dist: packages-dist ## The API server, optimised after what it does under load
	$(COMMIT) hack/dist.sh $(TARGET)

# What a cluster on this machine needs, which is less than everything.
.PHONY: kubewright
kubewright: packages-build
	$(COMMIT) cargo build --release -p kubewright

.PHONY: up
up: packages-run kubewright ## Start a cluster on this machine (NODES=1, UP_FLAGS=...)
	$(RELEASE)/kubewright up --nodes $(NODES) $(UP_FLAGS)

.PHONY: down
down: ## Stop the cluster that `make up` started
	$(RELEASE)/kubewright down

.PHONY: lint
lint: packages-build ## rustfmt and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: test
test: packages-test ## All tests: unit, integration, end to end on a sample
	cargo test --workspace --exclude e2e
	$(MAKE) roundtrip
	$(MAKE) api-operations STORES=embedded
	$(MAKE) clients SUITES="python kubectl.Apply kubectl.Change kubectl.Output" CLIENT_KUBECTLS=$(KUBECTL_VERSION)
	$(MAKE) soak-short
	$(MAKE) e2e

STORES ?= embedded etcd
.PHONY: api-operations
api-operations: packages-test ## Walk every operation of the API: status, body, effect (STORES="embedded etcd")
	cargo build -p kube-apiserver
	cargo run -q -p api-operations -- --kube-apiserver $(TARGET)/debug/kube-apiserver $(STORES:%=--storage %)

SUITES ?= python kubectl helm javascript
CLIENT_KUBECTLS ?= $(KUBECTL_VERSION) $(KUBECTL_NEXT_VERSION)
.PHONY: clients
clients: packages-test ## Drive the server with clients of others (SUITES="python kubectl helm javascript")
	$(if $(filter javascript,$(SUITES)),@command -v npm >/dev/null || hack/install-packages.sh clients)
	cargo build -p kube-apiserver -p kube-controller-manager
	KUBE_APISERVER=$(abspath $(TARGET))/debug/kube-apiserver \
	  KUBE_CONTROLLER_MANAGER=$(abspath $(TARGET))/debug/kube-controller-manager \
	  KUBECTL=$$(for v in $(CLIENT_KUBECTLS); do hack/kubectl.sh $$v $(abspath $(TOOLS)); done | paste -sd:) \
	  $(if $(filter helm%,$(SUITES)),HELM=$$(hack/clients.sh helm $(abspath $(TOOLS)))) \
	  $(if $(filter javascript,$(SUITES)),JAVASCRIPT=$$(hack/clients.sh javascript $(abspath $(TOOLS)))) \
	  $$(hack/clients.sh python $(abspath $(TOOLS))) test/clients/run.py $(SUITES)

.PHONY: images
images: packages-test ## Test images as OCI archives: busybox, test server, nginx
	@$(MAKE_IMAGES) $$(hack/nginx.sh $(abspath $(TOOLS)))

# What the tests need of them, which no package archive is asked for.
.PHONY: test-images
test-images: packages-test
	@$(MAKE_IMAGES)

MAKE_IMAGES = mkdir -p $(IMAGES) && rustc --edition=2024 -Copt-level=s -Cpanic=abort -Cstrip=symbols \
	  -Ctarget-feature=+crt-static -o $(IMAGES)/testserver test/images/src/testserver.rs && \
	  cargo run -q -p images --bin make-images -- $(IMAGES) $(IMAGES)/testserver

# The build for debugging is the one that tests drive: it is made in a fraction of the time.
.PHONY: e2e
e2e: test-images ## End-to-end tests: kubectl against a three-node cluster, both stores
	cargo build -p kubewright
	KUBEWRIGHT=$(abspath $(TARGET))/debug/kubewright IMAGES=$(abspath $(IMAGES)) \
	  KUBECTL=$$(hack/kubectl.sh $(KUBECTL_VERSION) $(abspath $(TOOLS))) \
	  KUBECTL_NEXT=$$(hack/kubectl.sh $(KUBECTL_NEXT_VERSION) $(abspath $(TOOLS))) \
	  cargo test -p e2e -- --test-threads=1 --nocapture

SOAK_TIME ?= 10m
.PHONY: soak
soak: packages-test ## Kill servers and stores under load for SOAK_TIME; nothing may be lost, doubled or out of order
	cargo build --release -p kube-apiserver
	cargo run --release -q -p soak -- --apiserver $(RELEASE)/kube-apiserver --time $(SOAK_TIME)

# What `make test` can afford.
.PHONY: soak-short
soak-short: packages-test
	cargo build -p kube-apiserver
	cargo run -q -p soak -- --apiserver $(TARGET)/debug/kube-apiserver --time 40s

# Debian's etcd of this release is 3.4, which cannot be asked how far its watches are; newer ones can.
.PHONY: etcd-next
etcd-next: packages-test ## What depends on etcd, with a newer one than this release of Debian has
	cargo build -p kube-apiserver
	PATH=$$(hack/etcd-next.sh $(abspath $(TOOLS))):$$PATH && export PATH && etcd --version && \
	  cargo test -p storage-etcd && \
	  cargo run -q -p soak -- --apiserver $(TARGET)/debug/kube-apiserver --engine etcd --time 40s && \
	  cargo run -q -p api-operations -- --kube-apiserver $(TARGET)/debug/kube-apiserver --storage etcd

# Targets are functions of test/fuzz/src; FUZZ_TIME is the time of each. What is found is left in test/fuzz/fuzz/artifacts,
# what was learnt in test/fuzz/fuzz/corpus. libFuzzer needs features of the compiler that are not stable.
FUZZ_TIME ?= 3m
FUZZ_TARGETS ?= json_body yaml_body protobuf_body patch apply label_selector field_selector field_set continue_token \
  url scalars request stored
.PHONY: fuzz
fuzz: packages-fuzz ## Fuzz what clients can send, FUZZ_TIME=3m each (FUZZ_TARGETS="json_body request ...")
	CARGO_FUZZ=$$(hack/cargo-fuzz.sh $(abspath $(TOOLS))) hack/fuzz.sh $(FUZZ_TIME) $(FUZZ_TARGETS)

.PHONY: bench
bench: kubewright test-images ## Measure start, latency and footprint of a cluster
	KUBEWRIGHT=$(abspath $(RELEASE))/kubewright IMAGES=$(abspath $(IMAGES)) \
	  KUBECTL=$$(hack/kubectl.sh $(KUBECTL_VERSION) $(abspath $(TOOLS))) \
	  KUBECTL_NEXT=$$(hack/kubectl.sh $(KUBECTL_NEXT_VERSION) $(abspath $(TOOLS))) \
	  cargo run --release -q -p bench

# Of conformance: E2E_TEST=path is needed. IMAGES_TAR=path is imported into the nodes; KUBECTL and KUBEWRIGHT name
# binaries to use; docs/conformance.md has the rest.
OUT ?= $(TARGET)/conformance
.PHONY: conformance
conformance: NODES := 3
conformance: packages-test $(if $(KUBEWRIGHT),,kubewright) ## Upstream's e2e.test against a cluster (E2E_TEST=path)
	@test -n "$(E2E_TEST)" || { echo "E2E_TEST=path must name upstream's e2e.test; see docs/conformance.md"; exit 2; }
	cargo run -q -p conformance -- --e2e-test "$(E2E_TEST)" --out "$(OUT)" --nodes $(NODES) \
	  --kubewright "$(or $(KUBEWRIGHT),$(RELEASE)/kubewright)" \
	  --kubectl "$(or $(KUBECTL),$$(hack/kubectl.sh $(KUBECTL_VERSION) $(abspath $(TOOLS))))" \
	  $(if $(IMAGES_TAR),--images-tar "$(IMAGES_TAR)") $(if $(FOCUS),--focus '$(FOCUS)') $(if $(SKIP),--skip '$(SKIP)') \
	  $(if $(PROCS),--procs $(PROCS)) $(if $(STORAGE),--storage $(STORAGE)) $(if $(BASELINE),--baseline "$(BASELINE)") \
	  $(if $(REASONS),--reasons "$(REASONS)") $(if $(DOCUMENT),--document "$(DOCUMENT)") $(if $(E2E_FLAGS),--e2e-flags='$(E2E_FLAGS)') $(CONFORMANCE_FLAGS)

.PHONY: openapi-diff
openapi-diff: packages-build ## Differences of the published OpenAPI v2 document to REFERENCE=file
	@test -n "$(REFERENCE)" || { echo "REFERENCE=file is missing: an OpenAPI v2 document, such as api/openapi-spec/swagger.json" \
	  "of upstream's source, plain or compressed by gzip"; exit 2; }
	cargo run -q -p checks --bin openapi-diff -- $(REFERENCE)

.PHONY: roundtrip
roundtrip: packages-build ## Every kind with every field set through every form, version and store
	cargo run -q -p checks --bin roundtrip
