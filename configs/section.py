"""The base class of all sections of the configuration. Imports nothing of ours."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable; refuses unknown keys, nan and inf; does not convert "1" or true to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
