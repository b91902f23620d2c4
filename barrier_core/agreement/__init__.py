"""The engine: one verdict for all ranks, on any key-value store.

`round_log` and `keys` say where a round is kept, `store` what a backend must supply. `foreign`
reads what strangers may have written, `sealing` keeps them out. `reasons`, `operations` and
`protocol` are the pure rules that decide a round. `round` runs them for one rank, and `watcher`
looks after a `slow_round`, with `failure_detector`, `liveness` and `links`. `joining`, `membership`
and `open_barriers` are how a rank gets in. `setting_up` logs what that waits for, once it is
`overdue`. `leaving` and `cleanup` are how a rank gets out, `wakeup` ends a wait, `gathering` brings
values to rank 0, and `barrier` puts all of it together.
"""
