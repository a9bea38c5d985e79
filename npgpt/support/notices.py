"""`notice`: a message that is not an error, but that the user should know."""


def notice(line: str) -> None:
    """Log a line as a warning of "npgpt". Where no logging is set up, as on the command line, it goes to stderr."""
    import logging  # here, because most runs have nothing to report

    logging.getLogger("npgpt").warning(line)
