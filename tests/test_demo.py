from pathlib import Path

import pytest

from leuko_tf.cli import UserError
from leuko_tf.demo import TAIL, run_step

NOISY = (
    "import sys, tqdm\n"
    "print('done 1 of 1')\n"
    "for i in tqdm.tqdm(range(3)): pass\n"
    "for i in range(100): print('warning', i, file=sys.stderr)\n"
    "sys.exit(int(sys.argv[1]))\n"
)


def test_a_step_logs_warnings_and_shows_their_end_if_it_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "step.log"
    run_step(log, "python", "-c", NOISY, 0)
    shown = capfd.readouterr()
    assert "$ python -c" in shown.out
    assert "done 1 of 1" in shown.out
    assert shown.err == ""
    warnings = [f"warning {i}" for i in range(100)]
    assert log.read_text().splitlines() == warnings  # and no progress bar

    with pytest.raises(UserError, match="ended with status 3") as error:
        run_step(log, "python", "-c", NOISY, 3)
    assert str(error.value).splitlines()[-TAIL - 1 :] == [f"The end of {log}:", *warnings[-TAIL:]]
    capfd.readouterr()
    run_step(log, "python", "-c", NOISY, 0, log_output=True)
    assert "done 1 of 1" not in capfd.readouterr().out.splitlines()
    assert "done 1 of 1" in log.read_text().splitlines()
    run_step(None, "python", "-c", NOISY, 0)
    assert "warning 99" in capfd.readouterr().err
