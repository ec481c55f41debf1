"""`python -m coronet_deploy` is `coronet-deploy`."""

import sys


def main() -> int:
    """Run the command line; an interruption while it is loaded is one line too."""
    try:
        from coronet_deploy.cli import main as command_line
        from coronet_deploy.cli._signals import keep_status
    except KeyboardInterrupt:
        print("coronet-deploy: interrupted", file=sys.stderr)  # noqa: T201 - the command line's own words
        return 130
    done = keep_status()
    return done(command_line())


if __name__ == "__main__":
    sys.exit(main())
