"""The planner's command as a person runs it, from a data sheet and from a kept calibration; nothing heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.plan import __main__ as plan
from orchestration.plan.__main__ import read_plan_command
from orchestration.plan.calibration import FILE, Calibration, kept_path
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts
from orchestration.plan.scenario import Scenario, model_shape
from orchestration.plan.session import basis_of, seconds
from rollout.tasks.embedded_model import EmbeddedRecipe, new_model

ROOT = Path(__file__).resolve().parents[4]
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers")
PAPER = ("experiment=paper", "hardware=h100", "lengths=[100,512]", "prompt_length=150")


def kept_calibration() -> Path:
    """For the embedded model on a CPU, where it is looked for."""
    shape = model_shape("embedded")
    path = kept_path(shape, "cpu")
    costs = Costs(
        engine=EngineCosts(step_s=1e-3, sequence_s=1e-4, context_token_s=0.0, prompt_token_s=0.0),
        learner=LearnerCosts(load_s=0.01, step_s=0.01, token_s=1e-4, pair_s=0.0, scoring_share=0.3),
        byte_s=1e-9,
        network_byte_s=1e-9,
        devices_per_node=1,
        publish_fixed_s=0.02,
        publishes_by_tree=True,
        grade_s=1e-4,
        iteration_s=0.01,
        pair_rate=0.8,
    )
    calibration = Calibration(
        device="cpu",
        shape=shape,
        engine_dtype="float32",
        learner_dtype="float32",
        costs=costs,
        prompt_length=8,
        lengths=(10, 30),
        errors={"generation": 0.02, "learner": 0.03},
    )
    path.parent.mkdir()
    path.write_bytes(FILE.dump_json(calibration))
    return path


def test_help_and_mistakes_have_their_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--help"]) == 0
    assert "usage: python -m orchestration.plan" in capsys.readouterr().out
    assert plan.main(["gpus=1", "lr=3"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    for mistake in ("learner.lora.rank=4", "hardware=h1000", "model.path=no/folder"):
        assert plan.main([*PAPER, mistake]) == 2
        assert mistake in capsys.readouterr().err.splitlines()[0]


def test_the_papers_run_is_planned_from_a_data_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*PAPER, "gpus=8,16"]) == 0
    text = capsys.readouterr().out
    assert "7,615,616,512 parameters in 28 layers" in text
    assert "NVIDIA's H100 data sheet" in text
    assert "peak figures of H100 SXM 80 GB, which no machine reaches" in text
    assert "scaling" in text.splitlines()[-1] or "more of them help" in text


def test_a_model_that_fits_nowhere_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*PAPER, "gpus=2", "learner.zero_stage=2"]) == 0
    assert "scaling: none of 2 devices hold the run: a learner rank needs" in capsys.readouterr().out
    assert plan.main([*PAPER, "gpus=2", "rollout.tensor_parallel_size=2"]) == 0
    assert "hold the run: an engine takes 2, and none is left for a rank" in capsys.readouterr().out


def test_assumptions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["experiment=paper", "hardware=h100", "gpus=8"]) == 0
    text = capsys.readouterr().out
    assert "completions of 512.0 on average" in text
    assert "prompts of 1536 tokens" in text


def test_without_anything_to_predict_from_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path))
    assert plan.main(["cluster.device=cpu"]) == 2
    assert "measure this machine with --calibrate, or count from a data sheet" in capsys.readouterr().err


def test_a_kept_calibration_is_found_and_wires_come_from_hardware_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path))
    path = kept_calibration()

    def basis(*arguments: str) -> tuple[Scenario, Costs]:
        request = read_plan_command(["cluster.device=cpu", *arguments])
        assert request is not None
        words = request[1].model_dump(exclude={"calibrate", "gpus"})
        scenario, costs_of, _ = basis_of(request[0], **words)
        return scenario, costs_of(scenario.workload())

    scenario, costs = basis("rollout.max_new_tokens=12")
    assert scenario.lengths == (10, 12)
    assert costs.pair_rate == 0.8
    with_hardware, moved = basis(f"calibration='{path}'", "hardware=h100")
    assert moved.engine == costs.engine
    assert moved.devices_per_node == 8
    assert with_hardware.device_bytes == 80e9
    assert basis("hardware=h100")[1].engine != costs.engine


def test_the_embedded_models_shape_is_that_of_its_recipe() -> None:
    model = new_model(EmbeddedRecipe())
    assert model_shape("embedded").num_parameters == sum(each.numel() for each in model.parameters())


def test_a_folders_shape_is_read_from_it(tmp_path: Path) -> None:
    new_model(EmbeddedRecipe(num_layers=1)).save_pretrained(tmp_path)
    assert model_shape(str(tmp_path)).layers == 1


def test_a_plan_from_a_data_sheet_imports_nothing_heavy() -> None:
    words = [*PAPER, "gpus=8", "cluster.device=auto"]
    code = f"import sys; from orchestration.plan.__main__ import main; main({words!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(HEAVY) & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "12.3 ms"), (1.234, "1.23 s"), (99.6, "99.6 s"), (1234.0, "1,234 s")]
)
def test_seconds_read_well(value: float, text: str) -> None:
    assert seconds(value) == text
