# Debian's tor, which keeps the onion service's keys in a volume; the group of the node may read its name, and not its keys.
FROM debian:bookworm-slim
# The newest of Debian's stable release is wanted: its changes are repairs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tor \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 satroute \
    && useradd --uid 10002 --gid satroute --home-dir /var/lib/tor --no-create-home --shell /usr/sbin/nologin onion \
    && install --directory --owner onion --group satroute --mode 0700 /var/lib/tor-data \
    && install --directory --owner onion --group satroute --mode 0750 /var/lib/onion
USER 10002:10001
VOLUME ["/var/lib/tor-data", "/var/lib/onion"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["test", "-s", "/var/lib/onion/satroute/hostname"]
ENTRYPOINT ["tor", "-f", "/etc/tor/torrc"]
