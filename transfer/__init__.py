"""The wire of a publish: how parameters are grouped, packed, digested and broadcast. Shared by sender and receiver; imports torch only."""
