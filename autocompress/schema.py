"""The JSON Schema of `candidates.json`, for who reads it without this package; made from the record's own model.

`python -m autocompress.schema` writes the file anew; a test compares it with the model.
"""

import json
from pathlib import Path
from typing import Any

from autocompress.record import FORMAT, StudyRecord, write_atomically

SCHEMA_FILE = Path(__file__).with_name("candidates.schema.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the records that this version writes; older ones of the same format fit, too."""
    return {
        "$schema": DIALECT,
        **StudyRecord.model_json_schema(),
        "title": f"candidates.json of autocompress, format {FORMAT}",
    }


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(record_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, schema_text())
    print(f"wrote {SCHEMA_FILE}")
