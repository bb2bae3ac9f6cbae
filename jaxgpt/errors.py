"""The one error that is meant for people."""


class UserError(ValueError):
    """What was asked for is not possible: the message has the value, the rule, and the cure.

    The command prints it as one line and exits with code 2. Every other exception is a defect and keeps its traceback.
    """
