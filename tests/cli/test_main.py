"""`detect-prune` itself: the commands it knows, and quick answers to those who only ask."""

import subprocess
import sys

import pytest

from detect_prune import __version__
from detect_prune.cli.main import COMMANDS, main


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_lists_the_commands_and_asking_is_no_error(capsys):
    for words in (["--help"], ["-h"]):
        assert main(words) == 0
        printed = capsys.readouterr()
        assert all(command in printed.out for command in COMMANDS) and not printed.err


@pytest.mark.parametrize("words, said", [([], "usage"), (["prone"], "unknown command 'prone'")])
def test_what_is_no_command(words, said, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(said) and not printed.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_answers_at_once(command):
    code = (
        "import sys; from detect_prune.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'cv2', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: detect-prune {command}" in done.stdout, done.stderr
