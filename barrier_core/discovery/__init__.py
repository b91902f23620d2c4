"""Finding, choosing and loading plugins.

`finder` reads what is installed, `registry` holds backends and chooses between them, `arguments`
checks what a user gives one, `observer_loading` loads observers, `known_backends` has names that
the core knows.
"""
