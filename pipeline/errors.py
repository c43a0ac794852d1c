"""The two kinds of failure that are not faults of ours."""


class UserError(Exception):
    """Something the user can fix: one sentence that holds the remedy. Ends with exit code 2."""


class ImageError(Exception):
    """One image cannot be used. It is recorded in ``failures.jsonl``; the others go on."""
