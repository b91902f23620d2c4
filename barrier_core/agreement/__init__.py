"""The engine: one verdict for all ranks, on any key-value store.

`log` and `protocol` say how a round is decided, `store` what a backend must supply, `roster` and
`processes` who is there, `watcher` looks after slow rounds, `retire` cleans up, `barrier` puts them
together, and `local` is the in-process backend they are proved with.
"""
