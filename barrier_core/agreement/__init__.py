"""The engine: one verdict for all ranks, on any key-value store.

`keys`, `log` and `protocol` say where a round is kept and how it is decided, `store` what a backend
must supply, `roster` and `processes` who is there, `watcher` looks after slow rounds, `leaving` and
`retire` see to the end, `barrier` puts them together, and `local` is the in-process backend that
they are proved with.
"""
