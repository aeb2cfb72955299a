"""What the command line says, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import forked
import pytest

from sam_train import cli
from sam_train.settings.verbs import VERBS, Verb, find_verbs


def ends(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"], ["fit", "--help"]])
def test_help_shows_every_verb_with_an_example(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(arguments)
    said = capsys.readouterr().out
    for name, verb in find_verbs().items():
        assert f"\n  {name}" in said
        assert verb.summary in said
        assert f"\n            python -m sam_train {name} " in said
        assert verb.example in said
    for name in ("run_dir=", "resume=", "init_from=", "data.train=", "logger=", "seed=", "--cfg"):
        assert name in said
    for name in ("vit_h", "quickstart", "nano", "overfit"):
        assert name in said


def test_the_examples_compose(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in find_verbs().values():
        _, _, _, name, *settings = verb.example.split()
        cli.main([name, *settings, "--cfg", "job"])
        assert capsys.readouterr().out.startswith("name: ")


def test_cfg_prints_the_recipe_anywhere() -> None:
    done = subprocess.run(
        [forked.python(), "-m", "sam_train", "fit", "+experiment=vit_h", "--cfg", "job"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert "max_steps: 90000" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fitt"], "no verb is called fitt: did you mean fit?"),
        (["fit", "--max-steps", "3"], "--max-steps"),
        (["fit", "trainer.max_step=3"], "trainer.max_steps"),
        (["fit", "trainer.max_steps=abc"], "trainer.max_steps"),
        (["fit", "data.train="], "data.train"),
        (["fit", "--cfg", "jbo"], "--cfg job"),
        (["fit", "--cfg"], "--cfg job"),
    ],
)
def test_what_the_user_must_mend_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(overrides: object) -> None:
        raise KeyboardInterrupt

    verb = Verb(name="wait", summary="waits", example="python -m sam_train wait", run=interrupted)
    monkeypatch.setitem(VERBS, "wait", verb)
    assert ends("wait") == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "same command" in err


def test_verbs_that_train_nothing_do_not_wait_for_lightning() -> None:
    """It takes longer to import than all else together."""
    modules = "sam_train.cli, sam_train.eval.evaluate, sam_train.generate.run, sam_train.export.run"
    code = f"import sys, {modules}, sam_train.cluster.doctor.run; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
