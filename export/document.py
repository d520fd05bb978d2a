"""What JSON documents are made of, read as strictly as they are written; does not know what any of them says."""

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A JSON document, or a part of one: it does not change, and has no name but its own and no figure but a number.

    Where a figure is no number something is broken, and must not be kept as if it were measured, or decided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
