"""What a kernel printed, as the lines that stay on a terminal."""

import json


def lines_of(text: str) -> list[str]:
    """The lines of what a process printed, without empty ones."""
    # A progress bar rewrites its line: what follows the last carriage return is what stays.
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def decode_log(text: str) -> list[str]:
    """The lines of a log as Kaggle gives it, a JSON array of ``{stream_name, time, data}``.

    Text that is no such array is taken as it is.
    """
    try:
        return lines_of("".join(event["data"] for event in json.loads(text)))
    except (ValueError, TypeError, KeyError):
        return lines_of(text)
