"""The loop and the commands; imports all the other packages, and none imports it."""
