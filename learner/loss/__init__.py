"""The objective of a run: gated loss, terms, gate, statistics."""
