# The image of an instance: the one static binary on an empty base with certificates and time zones.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) -t spendflush:local .
#
# Both base images can be replaced (a mirror, an internal one); the second needs no shell, but certificates and
# /usr/share/zoneinfo.
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
# Where the documents are that the program names, if not those that each instance serves itself.
ARG DOCS_URL=
RUN CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath -ldflags "-s -w -X main.version=${VERSION} \
	${DOCS_URL:+-X github.com/spendflush/spendflush/internal/docpages.Base=${DOCS_URL}}" -o /out/spendflush ./cmd/spendflush

FROM ${BASE_IMAGE}
COPY --from=build /out/spendflush /usr/bin/spendflush
USER 65532:65532
# In a container loopback reaches nobody. Whoever listens elsewhere must set SPENDFLUSH_TOKENS: without it the
# container says so and stops.
ENV SPENDFLUSH_LISTEN=0.0.0.0:4180
EXPOSE 4180
# No HEALTHCHECK: whoever routes to the instance asks /readyz (deploy/haproxy.cfg), which says more than a process
# started beside it could.
ENTRYPOINT ["/usr/bin/spendflush"]
CMD ["serve"]
