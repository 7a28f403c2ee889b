"""`eigenzoo`: parse, validate, call."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
INTERRUPTED_LINE = "eigenzoo: interrupted; the same command goes on from here"


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 done, 1 failed, 2 wrong usage, 3 done with refusals under ``--strict``, 130 interrupted.
    """
    import typer

    from engine.cli.app import app
    from engine.cli.output import printable
    from ingest.errors import EigenzooError

    usage_error = typer.BadParameter.__bases__[0]  # of whichever click this typer carries
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        code = app(args=arguments, prog_name="eigenzoo", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
            print(INTERRUPTED_LINE, file=sys.stderr)
        return code if isinstance(code, int) else 0
    except Exception as error:
        if isinstance(error, typer.Abort):
            print(INTERRUPTED_LINE, file=sys.stderr)
            return INTERRUPTED
        if debug:
            raise
        usage = isinstance(error, usage_error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return 2
        if usage:
            context = getattr(error, "ctx", None)
            where = context.command_path if context is not None else "eigenzoo"
            text = f"{error.format_message().rstrip('.')}; see `{where} --help`"  # type: ignore[attr-defined]
        elif isinstance(error, EigenzooError):
            text = str(error)
        elif isinstance(error, BrokenPipeError):
            # The reader of a pipe has seen enough; nothing is left to flush into it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        elif isinstance(error, OSError):
            text = f"{error.filename or 'input or output'}: {error.strerror or error}; mend that and run again"
        else:
            text = f"{type(error).__name__}: {error}; --debug shows where"
        print(f"eigenzoo: {printable(' '.join(text.split()))}", file=sys.stderr)
        return 2 if usage else 1
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
