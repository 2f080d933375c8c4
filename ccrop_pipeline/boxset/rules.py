"""The rules of the box set format: the one place where they are stated.

Code, validator, `docs/format.md` and the cases of the tests all share these ids.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ccrop_pipeline.errors import CcropError

RULES = {
    "B001": "`manifest.json` is one JSON object in UTF-8 with exactly the fields of section 3.",
    "B002": '`format` is `"ccrop-boxes"` and `version` is 1, in the manifest and in every shard.',
    "B003": "The provenance has exactly the fields of section 2, each of its type.",
    "B004": "`fingerprint` is the fingerprint of the provenance that it stands in.",
    "B005": '`form` is `"parquet"` or `"webdataset"`.',
    "B006": "Shard names are unique plain file names; `file` is the name and the form's suffix.",
    "B007": "Every listed shard is in the folder, with the bytes and the sha256 listed.",
    "B008": "The rows listed of every shard are its rows, and `rows` of the set is their sum.",
    "B009": "`counts` gives for each of the three statuses the number of its rows.",
    "B010": "The folder holds no finished shard that the manifest does not list.",
    "B011": "Every shard can be read to its end as a file of its form.",
    "B012": "Every shard carries its provenance as JSON under the name `ccrop`.",
    "B013": "Every shard has the fingerprint of the manifest.",
    "B014": "A shard has exactly the columns of section 4, of their types, with no value missing.",
    "B015": "A Parquet row group has at most 65,536 rows.",
    "B016": "A WebDataset member is `<key>.box.json`; the key has no dot after its last slash "
    "and no first folder like `__this__`.",
    "B017": "A key is Unicode text, not empty and without control characters.",
    "B018": "A key stands once in the whole box set.",
    "B019": "`status` is `ok`, `empty` or `unreadable`.",
    "B020": "Box edges are finite and in [0, 1].",
    "B021": "`x_min` < `x_max` and `y_min` < `y_max`.",
    "B022": "Rows that are `empty` or `unreadable` carry the full box 0, 0, 1, 1.",
    "B023": "`width` and `height` are at least 1, except in `unreadable` rows.",
    "B024": "Either every row of the box set has a heatmap or none has, all of one shape.",
    "B025": "Heatmap values are finite and in [0, 1].",
    "B026": "The rows of a shard are the images of its source shard, in source order.",
    "B027": "`image_hash` is the hash of the image as it now is in the source.",
    "B028": "Either every row of the box set has `choices` or none has.",
    "B029": "The `choices` of a row are one or more boxes, each of which keeps B020 and B021.",
    "B030": "The box of a row with `choices` is their union.",
}

_SHOWN = 5


class Problem(NamedTuple):
    """One breach of one rule.

    Attributes:
        rule: Id in `RULES`.
        where: File, and row (counted from 0) where there is one.
        message: What is wrong, with the value.
    """

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.rule} {self.where}: {self.message}"


def refuse(problems: Sequence[Problem], remedy: str) -> None:
    """Raise the problems, if there are any, as one error that ends with what to do.

    Raises:
        CcropError: If `problems` is not empty.
    """
    if not problems:
        return
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    raise CcropError("\n".join([*lines, remedy]))
