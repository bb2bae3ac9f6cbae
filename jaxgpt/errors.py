"""The one error that is meant for people."""


class UserError(ValueError):
    """What was asked for is not possible: the message has the value, the rule, and the cure.

    The command prints it as one line and exits with code 2. Every other exception is a defect and keeps its traceback.

    Example:
        >>> import jaxgpt
        >>> try:
        ...     jaxgpt.GPTConfig(dropout=1.5)
        ... except jaxgpt.UserError as error:
        ...     print(error)
        dropout=1.5 is not a probability below 1; 0 turns it off
    """
