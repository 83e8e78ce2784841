"""The JSON Schema of `candidates.json` that the package carries."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autocompress.record import FORMAT, StudyRecord
from autocompress.schema import SCHEMA_FILE, record_schema, schema_text
from tests.test_record import FULL

COMMITTED = Path(__file__).parents[1] / "reports" / "fashion" / "candidates.json"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_file_is_that_of_the_model() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m autocompress.schema"


def test_the_schema_says_its_format() -> None:
    assert record_schema()["properties"]["format"]["const"] == FORMAT
    assert f"format {FORMAT}" in record_schema()["title"]


@pytest.mark.parametrize("content", [COMMITTED.read_text(), FULL.model_dump_json()], ids=["committed", "made here"])
def test_a_record_fits_the_schema(validator: Any, content: str) -> None:
    validator.validate(json.loads(content))
    validator.validate(StudyRecord.model_validate_json(content).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("format", FORMAT + 1, id="another format"),
        pytest.param("surprise", 1, id="an unknown field"),
        pytest.param("study", {}, id="a study without fields"),
        pytest.param("candidates", [{"digest": "x"}], id="half a candidate"),
        pytest.param("environment", None, id="no environment"),
    ],
)
def test_what_the_model_refuses_does_not_fit(validator: Any, key: str, value: object) -> None:
    assert not validator.is_valid({**json.loads(FULL.model_dump_json()), key: value})
