"""What the trace files of a job say: who is late, what it costs, and what has failed."""
