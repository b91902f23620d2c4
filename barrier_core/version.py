"""The version of the core; the distribution's metadata is made from it."""

__version__ = "0.1.0"
