# The incept command with Mesa's drivers: lavapipe, and those of AMD and Intel for `--device /dev/dri`.
#
#   docker build -t incept .
#   docker run --rm -it -v "$PWD:/work" incept demo
FROM rust:1-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/incept /usr/local/bin/incept
# Runs and images of the user's folder.
WORKDIR /work
ENTRYPOINT ["incept"]
CMD ["--help"]
