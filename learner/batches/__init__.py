"""From graded completions to packed rows: advantages, packing, balance."""
