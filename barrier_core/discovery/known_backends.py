"""Names that the core knows: its own, and those of backends that can be installed."""

CORE = "barrier-core"

# What the core brings itself. No other distribution can offer a backend under such a name.
OWN_NAMES = frozenset({"local"})

# Backends known to exist, so that asking for one that is not installed names the remedy.
KNOWN_BACKENDS = {
    "dist_barrier": "barrier-dist-barrier",
    "tcp_store": "barrier-tcp-store",
}
