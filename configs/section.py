"""The base class of all sections of the configuration. Imports nothing of ours."""

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Base of every section: immutable; refuses unknown keys, nan and inf; does not convert "1" or true to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def mistakes(self) -> Iterator[str]:
        """One line for each setting that does not fit the others of the section."""
        return iter(())

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        if mistakes := "\n".join(self.mistakes()):
            raise ValueError(mistakes)
        return self
