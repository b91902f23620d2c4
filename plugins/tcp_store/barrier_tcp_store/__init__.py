"""The ``tcp_store`` barrier: over torch's TCPStore, with every guarantee of the engine."""

from barrier_tcp_store.barrier import TCPStoreBarrier

__all__ = ["TCPStoreBarrier"]
