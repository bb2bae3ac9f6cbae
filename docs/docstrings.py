"""How the API page reads docstrings: their examples are blocks of code."""

import re
from typing import Any

import griffe

BARE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Google's section is called Examples; where an example stands in the text, it becomes a block."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text, count = re.subn(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = text if count else BARE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
