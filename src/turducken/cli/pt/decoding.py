"""``turducken pt decode``: single values, field by field."""

from textwrap import fill
from typing import Annotated

import typer

from turducken.cli.pt.printing import JsonOption, one_line_errors, print_result
from turducken.cli.statuses import exit_statuses
from turducken.cli.teaching import command_with
from turducken.inspect.decode import ANY_PHYSICAL_ADDRESS, all_kinds
from turducken.inspect.decode import decode as decode_value
from turducken.inspect.decoded import decoded_record, decoded_view
from turducken.inspect.numbers import parse_number

app = typer.Typer(add_completion=False)


EXAMPLES = f"""\
 Examples

   turducken pt decode 0x1234032 --as ept.pte          writable, not readable: misconfigured
   turducken pt decode 0x80000021 --as exit-reason
   turducken pt decode 0x181 --as qualification.48     by the exit reason's number, or its name:
   turducken pt decode 0x181 --as qualification.ept-violation
   turducken pt decode 0x80000b0e --as interruption.exit
   turducken pt decode 0xa09b --as access-rights
   turducken pt decode 7 --as instruction-error
   turducken pt decode 0x6c16 --as vmcs-encoding
   turducken pt decode 0x3f00000016 --as msr.vmx-pinbased-ctls

 Kinds

{
    fill(
        ", ".join(all_kinds()),
        96,
        initial_indent="   ",
        subsequent_indent="   ",
        break_on_hyphens=False,
    )
}

"""


@app.command("decode", cls=command_with(EXAMPLES + exit_statuses()))
def decode(
    value: Annotated[str, typer.Argument(help="The value of an entry, register or field.")],
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help="What it is; see below.")],
    maxphyaddr: Annotated[
        int,
        typer.Option(
            "--maxphyaddr",
            min=32,
            max=ANY_PHYSICAL_ADDRESS,
            help="Physical-address bits: higher ones are reserved.",
        ),
    ] = ANY_PHYSICAL_ADDRESS,
    json: JsonOption = None,
) -> None:
    """Take an entry, a register or a field of the VMCS apart, and say what it means."""
    with one_line_errors():
        decoded = decode_value(parse_number(value, "VALUE"), kind, maxphyaddr)
        print_result(decoded_record(decoded), (decoded_view(decoded),), json)
