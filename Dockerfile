ARG GO=1.26
ARG VERSION=devel
ARG COMMIT=unknown

# The compiler runs on the builder's platform and compiles for the image's.
FROM --platform=$BUILDPLATFORM docker.io/library/golang:${GO} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
ARG COMMIT
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -tags nethttpomithttp2 -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" \
    -o /tokenalert ./cmd/tokenalert

# One static binary, with time zones and root certificates within.
FROM scratch
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="tokenalert" \
    org.opencontainers.image.description="Tells each user, once and at once, when their AI tokens reach a threshold of their limit" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /tokenalert /tokenalert
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/tokenalert"]
CMD ["run"]
