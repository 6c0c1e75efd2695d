"""The plug-in for lm-evaluation-harness: same accuracy and log-probabilities as our evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

from moe_tasks import experiment
from moe_tasks.errors import UserError
from tests.zeroshot_runs import COLOURS, run_values, write_prompted

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "which colour ? {{{{text}}}}"
doc_to_target: n
doc_to_choice: {choices}
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    root = write_prompted(folder / "tasks")
    experiment.run(folder / "run", run_values(root, zeroshot={}), resume=False)
    name = TASK.format(
        name="socks", file=root / "fixed" / "test.jsonl", choices=json.dumps(COLOURS)
    )
    (folder / "harness").mkdir()
    (folder / "harness" / "socks.yaml").write_text(name)
    return folder / "run"


@pytest.mark.parametrize("system", ["multitask", "moe"])
def test_same_scores_as_ours(run: Path, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import moe_tasks.lm_eval  # noqa: F401

    monkeypatch.setenv("HF_DATASETS_CACHE", str(run.parent / "datasets"))
    done: Any = lm_eval.simple_evaluate(
        model="moe_tasks",
        model_args=f"run={run},system={system},task=fixed,template=before",
        tasks=["socks"],
        task_manager=TaskManager(include_path=str(run.parent / "harness")),
        log_samples=True,
        bootstrap_iters=0,
    )
    cell = run / "zeroshot" / system / "auto" / "fixed" / "before"
    lines = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
    samples = sorted(done["samples"]["socks"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(lines) == 12
    for sample, line in zip(samples, lines, strict=True):
        found = [float(answer[0][0]) for answer in sample["resps"]]
        assert found == pytest.approx(line["log_probs"], abs=1e-4)
    ours = json.loads((cell / "result.json").read_text())["scores"]["sum"]
    assert done["results"]["socks"]["acc,none"] == pytest.approx(ours)


def test_generation_and_greedy_flags(run: Path) -> None:
    from lm_eval.api.instance import Instance

    from moe_tasks.lm_eval import RunModel

    model = RunModel(str(run), system="moe", task="hat")

    def asked(kind: str, *arguments: Any) -> Instance:
        return Instance(kind, {}, arguments, 0)  # type: ignore[arg-type]

    (text,) = model.generate_until([asked("generate_until", "hat 1 ?", {"max_gen_toks": 4})])
    stopped = {"max_gen_toks": 4, "until": [text[:1]] if text else ["x"]}
    assert model.generate_until([asked("generate_until", "hat 1 ?", stopped)]) == [""]
    pairs = [("hat 1 ?", " red"), ("", " blue"), ("hat 1 ?", " blue")]
    together = model.loglikelihood([asked("loglikelihood", *pair) for pair in pairs])
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = model.loglikelihood([asked("loglikelihood", *pair)])
        assert alone[0] == pytest.approx(found[0], abs=1e-4)
    with pytest.raises(UserError, match="greedily"):
        model.generate_until([asked("generate_until", "x", {"do_sample": True})])
    with pytest.raises(UserError, match="a text alone"):
        model.loglikelihood_rolling([asked("loglikelihood_rolling", "x")])


def test_the_command_line(run: Path, tmp_path: Path) -> None:
    import os
    import subprocess

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [
            sys.executable, "-m", "moe_tasks.lm_eval", "--model", "moe_tasks", "--model_args",
            f"run={run},system=moe,task=fixed", "--tasks", "socks",
            "--include_path", str(run.parent / "harness"), "--output_path", str(tmp_path / "out"),
        ],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "acc" in done.stdout
