.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# One setting for every target, so that all of them share the build cache.
export CGO_ENABLED := 0
GOBUILD := go build -buildvcs=false

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## a tour on an embedded control plane that ends by itself
	bin/berth demo

.PHONY: test
test: build ## run all tests
	go test -timeout 15m ./...

.PHONY: bench
bench: build ## measure, and print the table of docs/benchmarks.md
	go run -buildvcs=false ./bench

.PHONY: build
build: tools ## bin/berth, bin/berth-agent and the programs they run
	$(GOBUILD) -o bin/ ./cmd/...

.PHONY: tools
tools: ## the pinned programs that tests need, each once, under bin/
	@hack/tools.sh

.PHONY: generate
generate: ## deep copies and CustomResourceDefinitions, from api/
	go tool controller-gen object crd paths=./api/... output:crd:dir=deploy/crds

.PHONY: lint
lint: ## formatting, vet and the rules of .golangci.yml
	@hack/tools.sh golangci-lint
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	bin/golangci-lint run
