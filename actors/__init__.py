"""What every caller of Ray actors shares: waiting for several at once, and telling what went wrong in one."""
