# docker build --tag fathom .
# docker run --rm -v "$PWD:/work" -v "$HOME/.cache/huggingface:/cache" fathom measure Qwen/Qwen2.5-0.5B
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
ARG FATHOM_VERSION
RUN cargo build --profile dist --locked -p fathom-cli

# The C library, and nothing else: no shell, no package manager. The user is `nonroot`.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/dist/fathom /usr/local/bin/fathom
ENV HF_HOME=/cache
# With NVIDIA's container runtime (`docker run --gpus all`), the driver is put in.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["/usr/local/bin/fathom"]
CMD ["--help"]
