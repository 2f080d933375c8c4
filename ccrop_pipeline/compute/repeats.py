"""Keys that come again in another shard, found early and in little memory."""

from collections.abc import Sequence

from ccrop_pipeline.errors import CcropError

_REMEMBERED = 16


class Repeats:
    """Remembers a few keys of every shard, and looks for them in those that follow.

    Where keys repeat, it is mostly because every shard counts its images from 0: then the second
    shard is enough to see it, after minutes and not after days. Any other repetition is found
    when the manifest is written.
    """

    def __init__(self) -> None:
        self._shard_of: dict[str, str] = {}

    def check(self, shard: str, keys: Sequence[str]) -> None:
        """Looks at the keys of a shard that is new.

        Raises:
            CcropError: A key of an earlier shard comes again.
        """
        repeated = self._shard_of.keys() & keys
        if repeated:
            key = min(repeated)
            raise CcropError(
                f"the key {key!r} stands in the shards {self._shard_of[key]!r} and {shard!r}: keys "
                "must be unique, since boxes are found by them (rule B018). Pack the images "
                "again, `ccrop data pack`, with keys of their own"
            )
        for key in keys[:: max(1, len(keys) // _REMEMBERED)]:
            self._shard_of[key] = shard
