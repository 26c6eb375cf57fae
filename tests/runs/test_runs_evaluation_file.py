"""evaluation.json is read as a file that anybody may have changed: it is what it was, or refused in a line."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.errors import RunError
from normbench.runs.evaluation_file import EVALUATION_FILE, NUM_BINS, Evaluation, pack_hits, read_evaluation
from normbench.runs.record_files import run_records


def record(**changes: Any) -> dict[str, Any]:
    hits = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 0], bool)
    bins = [{"num_images": 0, "confidence": 0.0, "accuracy": 0.0}] * (NUM_BINS - 1)
    return {
        "split": "test",
        "num_images": 10,
        "class_names": ["cat", "dog", "bird"],
        "confusion": [[3, 1, 0], [2, 2, 0], [1, 1, 0]],
        "loss": 1.5,
        "bins": [*bins, {"num_images": 10, "confidence": 0.95, "accuracy": 0.5}],
        "hits": pack_hits(hits),
        "train": {"num_images": 20, "accuracy": 0.75, "loss": 0.5},
        **changes,
    }


def write(folder: Path, content: Any) -> None:
    (folder / EVALUATION_FILE).write_text(json.dumps(content))


def test_what_follows_from_a_record(tmp_path: Path) -> None:
    write(tmp_path, record())
    found = read_evaluation(tmp_path)
    assert found is not None
    assert found.accuracy == 0.5
    assert found.train_test_gap == 0.25
    assert found.calibration_error == pytest.approx(0.45)
    np.testing.assert_allclose(found.class_accuracies, [0.75, 0.5, 0.0])
    assert found.hit_bits.tolist() == [1, 0, 1, 1, 0, 0, 0, 1, 1, 0]
    assert read_evaluation(tmp_path / "elsewhere") is None


def test_ten_thousand_images_take_less_than_two_kilobytes() -> None:
    is_hit = np.random.default_rng(0).random(10_000) < 0.5
    packed = pack_hits(is_hit)
    assert len(base64.b64decode(packed)) == 1250
    assert len(packed) < 1700


def test_a_class_without_images_has_no_accuracy() -> None:
    found = Evaluation.model_validate(record(confusion=[[3, 1, 0], [3, 2, 1], [0, 0, 0]]))
    assert np.isnan(found.class_accuracies[2])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_images": 11}, "confusion: not as many images"),
        ({"confusion": [[3, 1], [2, 2]]}, "not a row and a column for each class"),
        ({"confusion": [[4, 0, 0], [2, 2, 0], [1, 1, 0]]}, "hits: other than the confusion matrix"),
        ({"confusion": [[3, 1, 0], [2, -2, 4], [1, 1, 0]]}, "confusion"),
        ({"hits": "AAAA"}, "hits: not a bit for each image"),
        ({"hits": "not base64!"}, "Only base64 data is allowed"),
        ({"bins": []}, "bins"),
        ({"loss": "high"}, "loss"),
        ({"train": {"num_images": 20, "accuracy": 75, "loss": 0.5}}, "train.accuracy"),
        ({"class_names": ["x" * 500, "dog", "bird"]}, "class_names"),
        ({"statistics": [{"weights": "last", "statistics": "running", "num_images": 1, "accuracy": 2, "loss": 1}]},
         "statistics.0.accuracy"),
        ({"corruptions": {"source": "generated", "adapted_batch_size": 500, "results": []}}, "corruptions.results"),
        ({"num_images": 10**12}, "num_images"),
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_refused_with_its_place(changes, said: str, tmp_path: Path) -> None:
    write(tmp_path, record(**changes))
    with pytest.raises(RunError, match=r"evaluation\.json: cannot be read") as caught:
        read_evaluation(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"hits": ' + "[" * 10_000])
def test_what_is_no_record_at_all_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / EVALUATION_FILE).write_text(content)
    with pytest.raises(RunError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)


def test_hits_that_begin_like_a_path_are_given_away_as_they_are(tmp_path: Path) -> None:
    hits = pack_hits(np.ones(10, bool))
    assert hits.startswith("/"), "a test of nothing"
    write(tmp_path, record(hits=hits) | {"measured_on": {"device": "cpu", "platform": "/home/ada/secret"}})
    (given,) = run_records(tmp_path)
    assert given.name == EVALUATION_FILE
    public = json.loads(given.content)
    assert public["hits"] == hits
    assert "ada" not in json.dumps(public)
