"""The section of low-rank adapters (LoRA).

In: a plain nested dict. Out: a frozen section. Knows names and bounds; learner/model/lora.py makes the adapters.
"""

from collections.abc import Iterator

from pydantic import Field

from configs.section import Section

ALL_LINEAR = "all-linear"


class LoraConfig(Section):
    """Low-rank adapters on linear modules, trained in place of the modules' weights; see docs/lora.md."""

    rank: int = Field(default=0, ge=0)  # rank of the adapters; 0: no adapters, every weight is trained
    alpha: int = Field(default=32, ge=1)  # scale of the adapters, whose output is multiplied by alpha / rank
    # last parts of module names, as in [q_proj,v_proj]; all-linear: every linear module but the output head
    target_modules: tuple[str, ...] = Field(default=(ALL_LINEAR,), min_length=1, strict=False)  # YAML has lists only

    @property
    def is_on(self) -> bool:
        return self.rank > 0

    def mistakes(self) -> Iterator[str]:
        named = f"learner.lora.target_modules=[{','.join(self.target_modules)}]"
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            yield f"{named}: {ALL_LINEAR} must stand alone; leave it or the others out"
        elif not self.is_on:
            given = {"alpha": f"learner.lora.alpha={self.alpha}", "target_modules": named}
            changed = [given[name] for name in given if getattr(self, name) != type(self).model_fields[name].default]
            if changed:
                yield (
                    f"{' and '.join(changed)}: no effect with learner.lora.rank=0; set learner.lora.rank to at least 1 "
                    f"or leave it out"
                )
