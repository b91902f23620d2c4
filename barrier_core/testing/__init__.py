"""What a backend is tested with: rank processes that can be killed, stopped and interrupted."""
