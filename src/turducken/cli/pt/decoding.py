"""``turducken pt decode``: single values, field by field."""

from typing import Annotated

import typer

from turducken.cli.pt.printing import JsonOption, one_line_errors, print_result
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.inspect.decode import LAYOUTS
from turducken.inspect.decode import decode as decode_value
from turducken.inspect.decoded import decoded_record, decoded_view
from turducken.inspect.numbers import parse_number

app = typer.Typer(add_completion=False)


@app.command("decode", cls=command_with(exit_statuses()))
def decode(
    value: Annotated[str, typer.Argument(help="The value of an entry or register.")],
    kind: Annotated[
        str, typer.Option("--as", metavar="KIND", help=f"One of: {', '.join(LAYOUTS)}.")
    ],
    json: JsonOption = None,
) -> None:
    """Take an entry or a register apart, field by field."""
    with one_line_errors():
        decoded = decode_value(parse_number(value, "VALUE"), kind)
        print_result(decoded_record(decoded), (decoded_view(decoded),), json)
