# SPDX-License-Identifier: Apache-2.0
# devmem-loaderd and devmem-loader in an image. ./dev image builds it without a registry; anybody else's builder does too:
#
#   docker build --build-arg VERSION=0.1.0 -t devmem-loader .
#   docker run -d --cap-add NET_ADMIN --network host -v /run/devmem-loader:/run/devmem-loader devmem-loader
#
# The final stage is the base and the Debian package of deploy/debian: no compiler, no CUDA (the driver comes from the node).
ARG BASE=docker.io/library/debian:bookworm-slim

# --- the package, from source ---
FROM ${BASE} AS build
# Not given: built here. Otherwise a folder of the context that holds packages which were built before (tests).
ARG PACKAGES=
RUN [ -n "$PACKAGES" ] || { apt-get update && apt-get install -y --no-install-recommends \
      cmake ninja-build g++ ccache pkg-config dpkg-dev file python3 \
      libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev liburing-dev \
      nlohmann-json3-dev libcli11-dev libspdlog-dev libcurl4-openssl-dev libssl-dev libpugixml-dev libhttp-parser-dev \
      libmnl-dev libsystemd-dev; }
COPY . /src
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/ccache \
    mkdir /packages && if [ -n "$PACKAGES" ]; then cp "$PACKAGES"/devmem-loader_*.deb /packages/; else \
      cmake --preset release -DDEVMEM_TESTS=OFF && \
      cmake --build build/release --target devmem-loaderd devmem-loader devmem-loader-client manuals && \
      cpack --config build/release/CPackConfig.cmake -B build/release/packages && \
      cp build/release/packages/devmem-loader_*.deb /packages/; fi

# --- what runs ---
FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
# A number, so that Kubernetes can see that it is not root. The folder of the sockets, where it is the node's, must be this user's.
ARG UID=65532
LABEL org.opencontainers.image.title="devmem-loader" \
      org.opencontainers.image.description="GPU-direct, zero-copy receive service for ML data loading" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /packages /packages
# The file capability, +p and not +ep: the daemon makes it effective itself, and starts also where the container may not have it
# (then everything is received by copying). It has no effect under allowPrivilegeEscalation: false.
# packages.txt is what the image was made of, version by version.
RUN groupadd --system --gid ${UID} devmem-loader && \
    useradd --system --uid ${UID} --gid ${UID} --home-dir /run/devmem-loader --shell /usr/sbin/nologin devmem-loader && \
    apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates kmod /packages/devmem-loader_*.deb && \
    apt-get install -y --no-install-recommends libcap2-bin && \
    setcap cap_net_admin+p /usr/bin/devmem-loaderd && \
    apt-get purge -y --auto-remove libcap2-bin && \
    mkdir -p /usr/share/devmem-loader && \
    dpkg-query -W -f='${Package} ${Version}\n' > /usr/share/devmem-loader/packages.txt && \
    rm -rf /packages /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/*.log /var/log/apt
USER ${UID}:${UID}
ENTRYPOINT ["/usr/bin/devmem-loaderd"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["/usr/bin/devmem-loader", "status", "--timeout", "5s"]
