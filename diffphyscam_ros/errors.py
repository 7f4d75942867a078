"""The one exception for bad input: a sentence that says what is wrong and what to pass."""


class InputError(ValueError):
    """
    User input that cannot be used: a file, a message, a parameter, a shape, a NaN.

    The text is one clear sentence for the person who passed it. The command line prints it
    without a traceback and exits with status 2; a node logs it and goes on.
    """
