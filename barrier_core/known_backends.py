"""Backends known to exist, so that asking for one that is not installed names the remedy."""

KNOWN_BACKENDS = {
    "dist_barrier": "barrier-dist-barrier",
    "tcp_store": "barrier-tcp-store",
}
