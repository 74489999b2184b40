# What one does with this tree. "make" alone prints the list.

SHELL := /bin/bash
GO ?= go

# Recipes work for root and for anybody: Go wants a home that can be written to, and must not ask git about a tree
# that belongs to another account ("dubious ownership"). A home in /tmp must be this user's own, and for nobody else to
# write to: what others put there would be run.
ifneq ($(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(shell d=$${TMPDIR:-/tmp}/spendflush-home-$$(id -u); mkdir -m 700 "$$d" 2>/dev/null; \
	if [ -O "$$d" ] && [ ! -L "$$d" ] && [ -z "$$(find "$$d" -prune \( -perm -020 -o -perm -002 \))" ]; then echo "$$d"; else mktemp -d; fi)
endif
# All that is built here is compiled in one way, so that nothing is compiled twice: programs, tests, tools and what is only
# looked at; with -trimpath in every directory. The race detector alone needs another way: that of go test -race.
export GOFLAGS := $(strip $(filter-out -buildvcs% -trimpath%,$(shell $(GO) env GOFLAGS 2>/dev/null)) -buildvcs=false -trimpath)
export CGO_ENABLED := 0
race torture: export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS))
race torture: export CGO_ENABLED := 1

VERSION ?= $(or $(shell git -c safe.directory='$(CURDIR)' describe --tags --always --dirty 2>/dev/null),devel)
# Where the documents are that the program names: "" for those that each instance serves itself, below /docs/.
DOCS_URL ?=
LDFLAGS := -s -w -X main.version=$(VERSION) $(if $(DOCS_URL),-X github.com/spendflush/spendflush/internal/docpages.Base=$(DOCS_URL))

# Tools run at exactly these versions and stay out of go.mod, whose graph every user of the library inherits. What only the
# integration tests need is in integration/go.mod for the same reason.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
NILNESS := golang.org/x/tools/go/analysis/passes/nilness/cmd/nilness@v0.51.0
HELM := helm.sh/helm/v4/cmd/helm@v4.3.2
GORELEASER := github.com/goreleaser/goreleaser/v2@v2.15.1
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
# Where those are kept that take minutes to build: each version in a directory of its own.
tool-dir = $(CURDIR)/bin/tools/$(lastword $(subst @, ,$(1)))

# All packages, the longest first, but ./integration/deploy, which only starts programs and reads files: make deployed tests it.
PKGS ?= ./sql/... ./internal/httpapi ./... ./integration ./integration/containers
TESTFLAGS ?=
POSTGRES_IMAGE ?=
REDIS_IMAGE ?=
TEST_TIMEOUT ?= 40m
FUZZTIME ?= 15s
BENCHTIME ?= 1s
SOAK_UPDATES ?= 5000000
HOSTILE_SECONDS ?= 20
TORTURE_SECONDS ?= 600
TORTURE_SEED ?=
MUTANTS ?=

# $(call go-test,FLAGS,PACKAGES) runs go test and says once more at the end, where one looks first, what failed and the first
# words of each failure. What is below ./integration is a module of its own (docs/adr/0014-modules.md), so go is run there for it:
# after the other packages, or, where BESIDE is set, beside them; what it says comes last in any case.
define go-test
@set -o pipefail; log=$$(mktemp); scenarios=$$(mktemp); pid=; failed=; trap 'exit 130' INT; trap 'exit 143' TERM; \
trap 'test -z "$$pid" || kill -INT $$pid; rm -f "$$log" "$$scenarios"' EXIT; \
$(if $(call beside,$(2)),{ $(call test-scenarios,$(1),$(2)); } >"$$scenarios" 2>&1 & pid=$$!;) \
$(if $(call in-main,$(2)),{ $(call run-go,,$(1),$(call in-main,$(2))); } 2>&1 | tee -a "$$log" || failed=yes;) \
$(if $(call beside,$(2)),wait $$pid || failed=yes; pid=; tee -a "$$log" <"$$scenarios";,\
$(if $(call in-integration,$(2)),{ $(call test-scenarios,$(1),$(2)); } 2>&1 | tee -a "$$log" || failed=yes;)) \
if [ -n "$$failed" ]; then \
	printf '\nFAILED:\n'; \
	awk '/^ *--- FAIL:/ { print; words = 8; next } \
		/^FAIL[ \t]+[^ \t]|^panic: |^WARNING: DATA RACE|goroutines are left/ { print; words = 0; next } \
		/^ / && words > 0 { print substr($$0, 1, 300); words--; next } { words = 0 }' "$$log"; \
	exit 1; \
fi
endef
BESIDE :=
in-main = $(filter-out ./integration ./integration/%,$(1))
in-integration = $(patsubst ./integration%,.%,$(filter ./integration ./integration/%,$(1)))
beside = $(and $(BESIDE),$(call in-main,$(1)),$(call in-integration,$(1)))
run-go = echo '$(GO) $(1) test $(2) $(3)'; exec $(GO) $(1) test $(2) $(3)
# The scenarios wait for servers more than they compute.
test-scenarios = $(call run-go,-C integration,-parallel 4 $(1),$(call in-integration,$(2)))

.DEFAULT_GOAL := help
.PHONY: hostile deployed release-check chart chart-files simulator times containers versions demo benchmarks screenshots help run build test race lint vet fmt fmt-check staticcheck soak torture fuzz bench clean mutants sim sim-long vulncheck

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## build it and run an instance on a private Postgres and Redis of its own (ARGS="..." for more of its flags)
	@.ci/need go postgres redis-server
	@$(MAKE) --no-print-directory build
	bin/spendflush dev $(ARGS)

demo: ## ten instances under traffic, their lock holder killed again and again, and the books compared at the end
	@.ci/need go postgres redis-server
	@$(MAKE) --no-print-directory build
	bin/spendflush-lab demo $(ARGS)

build: ## bin/spendflush, and bin/spendflush-lab for demo and benchmarks
	@.ci/need go
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

NEEDED_BY_TESTS := go gcc postgres redis-server pgbouncer haproxy nginx prometheus promtool alertmanager amtool chromium systemd-analyze python3 node

# What only computes, and has no time to be done in, gets what the tests beside it leave of the processors.
vet staticcheck deployed: GO := nice -n 10 $(GO)

test: ## everything: vet, format, staticcheck, all tests with the race detector on real servers, but those it only makes slow
	@.ci/need $(NEEDED_BY_TESTS)
	@failed=; $(MAKE) --no-print-directory --keep-going -j2 race lint deployed || failed=yes; \
	$(MAKE) --no-print-directory simulator || failed=yes; test -z "$$failed"

# What has nothing for the race detector to find, and would take minutes with it: make test runs it without.
WITHOUT_RACE := ^Test(EveryMutant|QuickMutants|MutantsThat)

simulator: ## what the race detector only makes slow: the simulator as far as it takes a minute or two, quick mutants, and that all can be made
	@.ci/need go
	$(call go-test,-run "Simulator|$(WITHOUT_RACE)" -count=1,. ./internal/lab/mutants)

# Two packages at once and the scenarios beside them, even on two cores: those with servers wait more than they compute. What
# both modules need is built before, so that both find it.
race: BESIDE := yes
race: ## the tests alone (PKGS="./queues/... ./integration" for some, TESTFLAGS="-run Name -v" for more of go test's flags)
	@.ci/need $(NEEDED_BY_TESTS)
	$(if $(call beside,$(PKGS)),$(GO) build -race ./...)
	$(call go-test,-race -p 2 -skip "$(WITHOUT_RACE)" -timeout $(TEST_TIMEOUT) $(TESTFLAGS),$(PKGS))

# What starts servers of its own in any case, needs none, or is about speed; the browser sees no difference.
NOT_IN_CONTAINERS := ^Test(Torture|Page|Bench|Demo|CtrlCWhileADemo|Dev|Alerts|TheDashboard|Prometheus|Compose|PostgresSwitchedOver|PostgresFailedOver|AStandby|TheOnlyAddress|TheOnlyHost|ARestoreUnder|APrimaryThat|PgBouncerThatIs|ARedisCluster|ASlotThat|AReplicaOfACluster|AllNodesOf|ANodeOfACluster|ASentinel|RedisBehindTLS|AClusterBehindTLS|RollingRestarts|NothingIsInstalled|TheRedisOfCompose|TheProxyOfCompose)

CONTAINERS ?= ./sql/... ./queues/... ./lockers/... ./migrations ./internal/httpapi ./internal/lab/testserver ./integration

containers: export SPENDFLUSH_TEST_SERVERS := docker
containers: export PATH := $(CURDIR)/bin:$(PATH)
containers: export SPENDFLUSH_TEST_POSTGRES_IMAGE := $(POSTGRES_IMAGE)
containers: export SPENDFLUSH_TEST_REDIS_IMAGE := $(REDIS_IMAGE)
containers: ## what may depend on the servers' versions, on servers in containers (POSTGRES_IMAGE=name REDIS_IMAGE=name)
	@.ci/need go postgres redis-server pgbouncer haproxy
	$(GO) -C integration build -o ../bin/containers ./containers
	$(call go-test,-exec containers -count=1 -timeout $(TEST_TIMEOUT) -skip "$(NOT_IN_CONTAINERS)" $(TESTFLAGS),\
		$(CONTAINERS))

versions: ## the same on Postgres 13, 15 and 17, Redis 7.0 and 8.0, and Valkey 8.1, in images made of Debian's packages (root)
	@for servers in bullseye:valkey bookworm:bookworm trixie:trixie; do \
		.ci/image "$${servers%:*}" && .ci/image "$${servers#*:}" && \
		$(MAKE) --no-print-directory containers POSTGRES_IMAGE="spendflush-test:$${servers%:*}" REDIS_IMAGE="spendflush-test:$${servers#*:}" || exit 1; \
	done

lint: vet fmt-check staticcheck ## vet, format and staticcheck

vet:
	@.ci/need go
	$(GO) vet ./...
	$(GO) -C integration vet -tags soak,torture,pictures,release ./...

fmt-check:
	@bad=$$(gofmt -l *.go */); if [ -n "$$bad" ]; then printf 'not formatted (make fmt does it):\n%s\n' "$$bad"; exit 1; fi

staticcheck:
	@.ci/need go
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(NILNESS) ./...
	$(GO) -C integration run $(STATICCHECK) ./...
	$(GO) -C integration run $(NILNESS) ./...

chart: chart-files ## the Helm chart and what else is in deploy/: lint, values in many ways, manifests against the API's types
	@.ci/need go systemd-analyze
	@$(MAKE) --no-print-directory deployed

deployed: ## the same, of the chart as it is
	@.ci/need go systemd-analyze
	$(call go-test,-count=1 -timeout $(TEST_TIMEOUT) $(TESTFLAGS),./integration/deploy)

chart-files: ## copy the alerts and the dashboard into the chart, which can't reach outside of its directory
	cp deploy/prometheus/alerts.yml deploy/helm/spendflush/files/alerts.yml
	cp deploy/grafana/spendflush.json deploy/helm/spendflush/files/dashboard.json

# $(call install-tool,MODULE@VERSION) builds a tool once.
install-tool = @test -d '$(call tool-dir,$(1))' || GOBIN='$(call tool-dir,$(1))' $(GO) install $(1)

release-check: export PATH := $(call tool-dir,$(GORELEASER)):$(call tool-dir,$(CYCLONEDX)):$(call tool-dir,$(HELM)):$(PATH)
# As above: git must not refuse a tree of another account.
release-check: export GIT_CONFIG_COUNT := 1
release-check: export GIT_CONFIG_KEY_0 := safe.directory
release-check: export GIT_CONFIG_VALUE_0 := $(CURDIR)
release-check: ## all of a release as it would be published, in dist/, and a look at each part of it (minutes, the first time a quarter of an hour)
	@.ci/need go gcc git dpkg-deb rpm2cpio cpio systemd-analyze
	$(call install-tool,$(GORELEASER))
	$(call install-tool,$(CYCLONEDX))
	$(call install-tool,$(HELM))
	goreleaser check
	rm -rf bin/chart && helm package deploy/helm/spendflush --destination bin/chart
	goreleaser release --snapshot --clean
	$(call go-test,-tags release -run Release -count=1 -timeout $(TEST_TIMEOUT) $(TESTFLAGS),./integration/deploy)

vulncheck: ## known vulnerabilities in what the program is made of (asks vuln.go.dev; says NOT RUN where it can't)
	@.ci/need go
	.ci/vulncheck $(GOVULNCHECK)

fmt: ## format all Go files
	gofmt -w *.go */

mutants: ## the tests of the tests: each guard of the books switched off, some minutes (MUTANTS=REGEXP for some of them)
	@.ci/need go postgres redis-server pgbouncer
	$(GO) run ./internal/lab/mutants -run '$(MUTANTS)'

sim: ## the simulator: 20,000 schedules, and one in twenty pairs of calls of its scenarios fails (some minutes)
	@.ci/need go
	$(call go-test,-run Simulator -count=1 -v -timeout 2h,. -sim.runs=20000 -sim.pairs=20 -sim.orders=10000)

sim-long: ## the simulator: 1,000,000 schedules, and every pair of calls of its scenarios fails, on all cores (hours)
	@.ci/need go
	$(call go-test,-run Simulator -count=1 -v -timeout 4h,. -sim.runs=1000000 -sim.pairs=1 -sim.orders=100000)

soak: export SPENDFLUSH_SOAK_UPDATES = $(SOAK_UPDATES)
soak: ## the long scenarios (SOAK_UPDATES=5000000), up to an hour
	@.ci/need go postgres redis-server haproxy
	$(call go-test,-tags soak -run Soak -timeout 60m -v -count=1,./integration)

times: ## how long commits stand still after a fault of Redis Cluster, Sentinel, Postgres or the lock holder, ten runs each
	@.ci/need go postgres redis-server
	$(call go-test,-tags soak -run TestSoakTime -timeout 60m -v -count=1 $(TESTFLAGS),./integration)

hostile: ## an honest client without and beside each attack: share of failures and p99, as a table (HOSTILE_SECONDS=20 each)
	@.ci/need go postgres redis-server
	@echo '| attack | the honest client asks | without the attack | beside it | ratio of p99 |'; echo '|---|---|---|---|---:|'
	@set -o pipefail; SPENDFLUSH_HOSTILE_SECONDS=$(HOSTILE_SECONDS) $(GO) -C integration test -run TestHostile -timeout 60m -v -count=1 . \
		| sed -nE 's/^ +hostile_linux_test\.go:[0-9]+: (\|.*)/\1/p; /FAIL|failed:|hostile_linux_test.go:[0-9]+: [^|]/p'

screenshots: ## the pictures of the page in docs/pictures, taken anew in Chromium
	@.ci/need go postgres redis-server chromium
	@mkdir -p docs/pictures
	SPENDFLUSH_PICTURES='$(CURDIR)/docs/pictures' $(GO) -C integration test -tags pictures -run TestPicturesOfThePage -count=1

torture: export TORTURE_SECONDS := $(TORTURE_SECONDS)
torture: export TORTURE_SEED := $(TORTURE_SEED)
torture: ## faults in random order under load, on four topologies (TORTURE_SECONDS=600 each; TORTURE_SEED=n for the order of an earlier run)
	@.ci/need go gcc postgres redis-server
	$(call go-test,-race -tags torture -run Torture -timeout $$((4 * $(TORTURE_SECONDS) + 1800))s -v -count=1,./integration)

fuzz: ## every fuzz target for a short time (FUZZTIME=15s each)
	@.ci/need go
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file target; do \
		dir=$$(dirname "$$file"); target=$${target#func }; echo "$$dir $$target"; \
		$(GO) -C "$$dir" test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) </dev/null || exit 1; \
	done

bench: ## every benchmark (BENCHTIME=1s each; 1x to see in half a minute that all still run)
	@.ci/need go postgres redis-server pgbouncer
	$(call go-test,-run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -timeout $(TEST_TIMEOUT),$(PKGS))

benchmarks: ## spendflush against other ways and its parts, in one run of about twenty-five minutes; writes docs/benchmarks.md (ARGS="..." for bench's flags)
	@.ci/need go postgres redis-server
	@$(MAKE) --no-print-directory build
	bin/spendflush-lab bench --markdown docs/benchmarks.md $(ARGS)

clean: ## remove what was built (what "make run" has recorded stays)
	rm -rf bin dist
	find . -name '*.test' -type f -delete
