"""What every caller of Ray actors shares: waiting for several, what went wrong in one, and spans of what they did."""
