"""Configuration of a run: Hydra groups (YAML beside this file) and the pydantic schema that accepts or refuses them."""
