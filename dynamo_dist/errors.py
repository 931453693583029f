"""The one exception class that users may want to catch."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one sentence: what is wrong, where, what to do."""
