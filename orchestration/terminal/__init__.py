"""Output to the terminal: console lines, errors in one line, exit statuses."""
