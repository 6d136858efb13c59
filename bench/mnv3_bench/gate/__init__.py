"""The gate: two arms, one verdict. `command` is what the CLI calls; `docs/gate.md` is the method and its figures."""
