"""Many runs: a history of summaries on disk or in an object store, and what it shows over time."""
