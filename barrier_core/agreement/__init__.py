"""The engine: one verdict for all ranks, on any key-value store.

`keys`, `log` and `protocol` say where a round is kept and how it is decided, `store` what a backend
must supply, `roster` and `processes` who is there, `seats` which of a rank's barriers is which,
`watcher` looks after slow rounds, `wakeup` ends a wait, `leaving` and `retire` see to the end,
`barrier` puts them together, and `local` is the in-process backend that they are proved with.
"""
