"""What --calibrate leaves for later plans: the costs of one model on one machine, as a JSON file.

In: a Calibration. Out: a file in a folder of the user or where they say, and the same Calibration again; a
CalibrationError where a file is not one, or was measured with something else than is asked about.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import ValidationError

from configs.lora import LoraConfig
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, PublishCosts, WireCosts
from orchestration.plan.model_shape import ModelShape

FORMAT = 2  # of the file; raised when what is in it changes its meaning


class CalibrationError(ValueError):
    """A calibration that cannot be used for what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What planning knows of one model on one machine."""

    machine: str  # in words
    device: str  # cpu or gpu
    shape: ModelShape
    engine_dtype: str
    learner_dtype: str
    lora: LoraConfig
    costs: Costs
    prompt_length: int
    lengths: tuple[int, ...]  # of completions, as sampled at the longest rollout.max_new_tokens that was measured
    errors: dict[str, float]  # mean relative error of each fit, over what it was fitted to


def default_path(shape: ModelShape, device: str) -> Path:
    """$SOFTGATE_CACHE/calibrations, or ~/.cache/softgate/calibrations: a file for each model and device."""
    root = os.environ.get("SOFTGATE_CACHE")
    folder = (Path(root) if root else Path.home() / ".cache" / "softgate") / "calibrations"
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in Path(shape.name).name)
    return folder / f"{name}-{shape.num_parameters}-{device}.json"


def save_calibration(calibration: Calibration, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {"format": FORMAT, **asdict(calibration), "lora": calibration.lora.model_dump(mode="json")}
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def load_calibration(path: Path) -> Calibration:
    """What save_calibration wrote; CalibrationError where the file is not that."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree.pop("format") != FORMAT:
            raise CalibrationError(f"calibration={path}: of another version of softgate; measure again (--calibrate)")
        costs = tree.pop("costs")
        return Calibration(
            shape=ModelShape(**tree.pop("shape")),
            costs=Costs(
                engine=EngineCosts(**costs.pop("engine")),
                learner=LearnerCosts(**costs.pop("learner")),
                wire=WireCosts(**costs.pop("wire")),
                publish=PublishCosts(**costs.pop("publish")),
                rates=tuple(costs.pop("rates")),
                **costs,
            ),
            lora=LoraConfig.model_validate(tree.pop("lora")),
            lengths=tuple(tree.pop("lengths")),
            **tree,
        )
    except FileNotFoundError as error:
        raise CalibrationError(f"calibration={path}: no such file; measure this machine with --calibrate") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise CalibrationError(
            f"calibration={path}: not a calibration ({error}); measure again (--calibrate)"
        ) from error


def require_model(calibration: Calibration, shape: ModelShape, path: Path) -> None:
    """CalibrationError where it was made with a model of other sizes."""
    differing = [
        field.name
        for field in fields(ModelShape)
        if field.name != "name" and getattr(shape, field.name) != getattr(calibration.shape, field.name)
    ]
    if differing:
        raise CalibrationError(
            f"calibration={path}: was measured with {calibration.shape.name}, which differs from {shape.name} in "
            f"{', '.join(differing)}; measure that model with --calibrate"
        )


def require_dtypes(calibration: Calibration, *, engine: str, learner: str, path: Path) -> None:
    """CalibrationError where engine or learner computed in another dtype."""
    asked = {"rollout.dtype": (engine, calibration.engine_dtype), "learner.dtype": (learner, calibration.learner_dtype)}
    for name, (wanted, measured) in asked.items():
        if wanted != measured:
            raise CalibrationError(
                f"calibration={path}: was measured with {name}={measured}, asked is {wanted}; measure that with "
                f"--calibrate"
            )


def require_adapters(calibration: Calibration, lora: LoraConfig, path: Path) -> None:
    """CalibrationError where it was made with other adapters, or with none where there are some."""
    if lora != calibration.lora:
        raise CalibrationError(
            f"calibration={path}: was measured with learner.lora.rank={calibration.lora.rank}, asked are "
            f"learner.lora.rank={lora.rank} and its target_modules; measure that with --calibrate"
        )
