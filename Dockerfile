# docker build --tag afseg .
# LOCK=lock-cpu-py313.txt builds for the CPU; docs/installation.md says where that lock comes from.
FROM debian:trixie-slim AS build
ARG LOCK=lock-py313.txt
ENV PIP_NO_CACHE_DIR=1 PATH=/opt/afseg/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git python3-dev python3-venv
WORKDIR /opt/source
COPY . .
RUN python3 -m venv /opt/afseg
RUN pip install --no-deps --require-hashes -r requirements/build.txt
RUN requirements/install.sh /opt/afseg --no-deps --require-hashes --no-build-isolation --compile -r "requirements/$LOCK"
RUN requirements/install.sh /opt/afseg --no-deps --compile .
RUN pip uninstall --yes uv

FROM debian:trixie-slim
ENV PATH=/opt/afseg/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home --home-dir /work afseg
COPY --from=build /opt/afseg /opt/afseg
USER 1000
WORKDIR /work
ENTRYPOINT ["afseg"]
CMD ["--help"]
