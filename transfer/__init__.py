"""The wire of a publish, shared by sender and receiver: grouping, packing, digests, broadcast. Imports torch only."""
