"""What every section of the configuration has in common. Imports nothing of ours."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused, no nan or inf, no conversion of "1" or true to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
