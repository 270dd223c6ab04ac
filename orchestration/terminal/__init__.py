"""What a person sees in the terminal: console lines, errors in one line, exit statuses."""
