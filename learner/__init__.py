"""Training side: the gated objective, packing, and DeepSpeed ranks. Knows of rollout only its contract."""
