.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
SCHEDULES ?= 1000
FUZZTIME ?= 30s
LINTER  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help
help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without HTTP/2, which nothing here speaks: probes and metrics are plain HTTP, and
# webhooks HTTP/1.1. It is half a megabyte.
.PHONY: build
build: ## Build bin/tokenalert, static and stamped
	CGO_ENABLED=0 go build -tags nethttpomithttp2 -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/tokenalert ./cmd/tokenalert

.PHONY: demo
demo: ## Show it at work on a private PostgreSQL
	go run ./cmd/tokenalert demo

.PHONY: test
test: ## Run the tests on a private PostgreSQL
	go test ./...

VERSIONS ?=
.PHONY: versions
versions: ## Run the tests on PostgreSQL 14 to 18, or VERSIONS="14 18" (needs npm)
	go run ./internal/versions $(VERSIONS)

.PHONY: pgbouncer
pgbouncer: ## Run the tests with workers behind PgBouncer (needs pgbouncer)
	PGTEST_POOLER=pgbouncer PATH="$$PATH:/usr/sbin" go test -count=1 -timeout 40m ./store ./worker ./delivery/... ./cmd/... ./internal/pgtest ./internal/privatepg

.PHONY: race
race: ## Run the tests with the race detector (needs a C compiler)
	go test -race -timeout 40m ./cmd/... ./delivery/... ./internal/... ./migrations ./store ./worker

.PHONY: mutants
mutants: ## Put each old behaviour back and see its test fail
	go run ./internal/mutants

.PHONY: faults
faults: ## Play SCHEDULES random schedules under faults (docs/reliability.md)
	go run ./faults run --schedules $(SCHEDULES)

.PHONY: faults-mutants
faults-mutants: ## Break what the promises rest on, and see the laboratory find it
	go run ./faults mutants

.PHONY: faults-recovery
faults-recovery: ## Measure how long it takes from a fault to the next alert
	go run ./faults recovery

.PHONY: faults-crowd
faults-crowd: ## Have a million users cross in one transaction
	go run ./faults crowd

.PHONY: faults-soak
faults-soak: ## Write for twenty minutes under faults, and see that nothing grows
	go run ./faults soak

BENCH ?= subset
.PHONY: bench
bench: ## Measure beside other ways, 20 minutes; BENCH=full: hours (docs/performance.md)
	go run ./bench $(if $(filter full,$(BENCH)),--full) --write docs/performance.md --summary README.md

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME; what fails stays in testdata/fuzz
	@for file in $$(git ls-files '*_test.go' | xargs grep -l '^func Fuzz'); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$file); do \
			go test ./$$(dirname $$file) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) || exit 1; \
		done; \
	done

.PHONY: lint
lint: ## Run the linters, check the format and go.mod
	go run $(LINTER) run
	go mod tidy -diff
	cd bench/river && go run $(LINTER) run && go mod tidy -diff
	cd deploy/validate && go run $(LINTER) run && go mod tidy -diff
	cd deploy/monitoring && go run $(LINTER) run && go mod tidy -diff

.PHONY: quickstart
quickstart: ## Type docs/quickstart.md on this machine, as root, and write the answers
	go run ./internal/transcript/write docs/quickstart.md

.PHONY: picture
picture: ## Draw docs/demo.svg, from a run of the demo
	go run ./internal/picture docs/demo.svg

# Without what would discover targets, which takes most of the time to build.
PROMTOOL := GOFLAGS=-tags=remove_all_sd go tool promtool
.PHONY: rules
rules: ## Check the alert rules and the dashboard, and try each rule (promtool)
	cd deploy/monitoring && $(PROMTOOL) check rules --lint=all --lint-fatal ../components/monitoring/rules.yaml
	cd deploy/monitoring && $(PROMTOOL) test rules ../components/monitoring/rules.test.yaml
	cd deploy/monitoring && go test . ./prometheus

.PHONY: rules-update
rules-update: ## Make the operator's form of the alert rules
	cd deploy/monitoring && go test . -run TestPrometheusRule -update

.PHONY: runbooks
runbooks: ## Make each fault, see its alert fire, follow its runbook, see it resolved
	cd deploy/monitoring && go test ./drills && go run ./drills -write ../../docs/runbooks/README.md

.PHONY: dashboard
dashboard: ## Draw docs/dashboard.svg, from a run that a real Prometheus scrapes
	cd deploy/monitoring && go run ./picture ../components/monitoring/dashboard.json ../../docs/dashboard.svg

# The first builder that works here. Docker knows what it builds on, and takes a
# time as an argument; the others are told, and not to add their own version. The
# time is the commit's.
IMAGE_BUILDER ?= $(or $(shell for b in docker podman buildah; do $$b info >/dev/null 2>&1 && echo $$b && break; done),\
	$(error no docker, podman or buildah works here))
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
for_docker = --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)
for_others = --timestamp $(SOURCE_DATE_EPOCH) --identity-label=false \
	--build-arg BUILDPLATFORM=linux/$(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(shell uname -m)))
.PHONY: image
image: ## Build the container image; IMAGE_FLAGS="--platform linux/arm64" for another
	$(IMAGE_BUILDER) build $(if $(filter docker,$(IMAGE_BUILDER)),$(for_docker),$(for_others)) \
		--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(or $(COMMIT),unknown) -t tokenalert:$(VERSION) $(IMAGE_FLAGS) .

.PHONY: image-test
image-test: ## Build the image for amd64 and arm64, twice each, and run it (as root, with buildah and runc)
	TEST_IMAGE=yes go test -v -count=1 -timeout 30m ./deploy/image

.PHONY: manifests
manifests: ## Have a real API server take deploy/ (needs etcd; the first time it builds that server, for minutes)
	cd deploy/validate && go test -count=1 -timeout 40m ./...

.PHONY: clean
clean: ## Remove what the build made
	rm -rf bin
