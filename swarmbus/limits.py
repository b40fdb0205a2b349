"""What a message that we write may hold; apart from the envelope, because a cheap send needs these too."""

from __future__ import annotations

from typing import Final

MAX_BODY_BYTES: Final = 65_536
"""UTF-8 bytes; older peers refuse a larger body on receipt."""

MAX_SUBJECT_BYTES: Final = 256
"""UTF-8 bytes of a subject that we write; a longer one from a peer is kept."""

CONTENT_TYPES: Final = ("text/plain", "text/markdown", "application/json")
PRIORITIES: Final = ("low", "normal", "high")
