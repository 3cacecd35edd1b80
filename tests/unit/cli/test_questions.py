"""What `tasador init` asks on a terminal."""

import typer
from typer.testing import CliRunner

from tasador.cli.start import _ask
from tasador.contract.type_inference import Question


def test_an_answer_that_is_none_of_the_options_is_asked_for_again() -> None:
    app = typer.Typer()
    found = {}

    @app.command()
    def ask() -> None:
        found.update(_ask([Question("a", "Is -999 missing?", ("yes", "no"), "yes")]))

    done = CliRunner().invoke(app, [], input="maybe\nno\n")
    assert done.exit_code == 0, done.output
    assert "Is -999 missing? (yes, no) [yes]" in done.output
    assert "'maybe' is not one of yes, no" in done.output
    assert found == {"a": "no"}
    CliRunner().invoke(app, [], input="\n")
    assert found == {"a": "yes"}
