"""The command line: ``turducken COMMAND``. Each command has a module; `main` is the entry point."""


def main() -> None:
    """Run the command line of the process; signals are taken care of before anything is loaded."""
    is_interrupted = False
    while True:
        try:
            from turducken.cli.signals import SIGNALS

            SIGNALS.install()
            break
        except KeyboardInterrupt:  # as Python has it until then
            is_interrupted = True
    if is_interrupted:
        SIGNALS.note(2)  # SIGINT
    from turducken.cli.entry import main as run

    run()
