.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# One setting for every target, so that all of them share the build cache.
export CGO_ENABLED := 0
GOBUILD := go build -buildvcs=false

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

.PHONY: node-tools
node-tools: ## what a cluster is made of: Kubernetes, containerd, bin/e2e
	@hack/tools.sh node
	$(GOBUILD) -o bin/e2e/ ./e2e/node ./e2e/node/pause ./e2e/node/probe

.PHONY: cluster
cluster: node-tools ## a real one-node Kubernetes, in the background
	@bin/e2e/node up

.PHONY: cluster-down
cluster-down: ## end that cluster and remove its state
	@bin/e2e/node down

.PHONY: generate
generate: ## deep copies and CustomResourceDefinitions, from api/, and the chart's copies
	go tool controller-gen object crd paths=./api/... output:crd:dir=deploy/crds
	rm -rf deploy/chart/files && mkdir -p deploy/chart/files/webhook
	cp -r deploy/crds deploy/admission deploy/chart/files/
	cp deploy/webhook/configuration.yaml deploy/chart/files/webhook/

.PHONY: chart
chart: generate ## lint the chart, and render deploy/bundle of it
	@hack/tools.sh helm
	bin/helm lint --strict deploy/chart --namespace berth-system
	(cat deploy/bundle/namespace.yaml && bin/helm template berth deploy/chart --namespace berth-system) >deploy/bundle/berth.yaml

.PHONY: images
images: tools ## the images of berth and of the stories, in bin/images
	go run -buildvcs=false ./e2e/image/make -postgres

.PHONY: e2e
e2e: node-tools images ## every promise in real pods; needs root
	go test -tags e2e -count 1 -p 1 -timeout 40m ./e2e/cluster ./e2e/stories

.PHONY: lint
lint: ## formatting, vet and the rules of .golangci.yml
	@hack/tools.sh golangci-lint
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	bin/golangci-lint run
