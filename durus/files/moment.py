"""Times in the history of a file, as people write them and as seals contain them. Statement BACKUP-30."""

from datetime import UTC, datetime

from durus.error import ArgumentError


def seal_time(moment: str | datetime) -> str:
    """Return a moment in the format of the times in seals, which sort as text.

    A text is in ISO 8601. A moment without an offset from UTC is in UTC. ArgumentError if it is not a time.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise ArgumentError(
                f"{moment!r} is not a time such as 2026-11-26T13:41:52Z, 2026-11-26 13:41:52.5+01:00 or 2026-11-26"
            ) from error
    try:
        utc = moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ArgumentError(f"{moment.isoformat()} is out of range in UTC") from error
    return utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
