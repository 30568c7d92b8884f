import json

import pytest
from typer.testing import CliRunner

from turducken.cli.pt import app
from turducken.inspect.samples import SAMPLES_DIRECTORY


@pytest.fixture
def samples():
    return SAMPLES_DIRECTORY


@pytest.fixture
def pt():
    """Run a pt command: returns (exit status, standard output, standard error)."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        crashed = result.exception is not None and not isinstance(result.exception, SystemExit)
        assert not crashed, result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def pt_json(pt):
    """Run a pt command with --json: returns (exit status, record)."""

    def run(*arguments):
        status, output, errors = pt(*arguments, "--json", "-")
        assert output, errors
        return status, json.loads(output)

    return run
