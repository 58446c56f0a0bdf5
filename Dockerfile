FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG COMMIT=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" \
    -o /tokenalert ./cmd/tokenalert

# One static binary, with time zones and root certificates within.
FROM scratch
COPY --from=build /tokenalert /tokenalert
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/tokenalert"]
CMD ["run"]
