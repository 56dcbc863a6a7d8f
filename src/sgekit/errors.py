"""What sgekit raises when the input, not the program, is at fault."""


class InputError(ValueError):
    """A problem that the user can mend: one line with the value, what is allowed, what to do.

    The command line prints the message and exits with code 2; a library caller
    catches it as the ValueError that it is.
    """
