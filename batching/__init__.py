"""How far generation may run ahead, and which finished groups make the batch of an iteration."""
