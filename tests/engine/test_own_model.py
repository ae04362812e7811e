"""A model that only the stack's own models.yaml knows, through the real engine: program and plugin both read it."""

import json

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.all]

OWN = {"name": "me/my-reranker", "kind": "cross-encoder", "parameters_m": 22, "weights_gb": 0.1, "max_model_len": 256}


def test_a_model_outside_the_catalog_is_refused_while_its_entry_is_incomplete_and_then_served(stack):
    stack.write_config(model=OWN["name"], revision="5b4f1d2")
    path = stack.project / "models.yaml"
    path.write_text(json.dumps({"models": [{**OWN, "weights_gb": "much"}]}))
    done = stack.preview()
    assert done.rc != 0
    assert "models.yaml: me/my-reranker: weights_gb: is 'much'; accepted: a number" in done
    assert "Traceback" not in done
    path.write_text(json.dumps({"models": [OWN]}))
    done = stack.up()
    assert done.rc == 0, done.text
    assert stack.outputs()["model"] == OWN["name"]
    assert stack.outputs()["validation"]["passed"] is True
    assert stack.destroy().rc == 0
