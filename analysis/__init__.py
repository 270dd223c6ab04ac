"""Pure statistics over what runs measured: numbers in, intervals and verdicts out. Imports numpy only."""
