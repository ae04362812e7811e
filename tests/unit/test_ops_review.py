"""A review stack's name and config: nothing else is ever touched, and no other stack's secrets are copied."""

import pytest
import yaml

from ops import exits, review
from ops.engine import Pulumi


@pytest.fixture
def project(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: p\n")
    return tmp_path


def written(project, **config):
    (project / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"encryptionsalt": "of dev", "config": config}))


@pytest.mark.parametrize("name", ["prod", "dev", "review", "review-", "review-A", "xreview-1", "review-1;ls"])
def test_no_stack_but_a_review_stack_is_accepted(name):
    with pytest.raises(exits.OpsError) as refused:
        review.named(name)
    assert refused.value.code == exits.USAGE


def test_the_config_is_that_of_another_stack_with_changes_and_a_salt_of_its_own(project):
    written(project, **{"vast-reranker:disk_gb": 40, "vast-reranker:prefer": "cheapest"})
    (project / "Pulumi.review-1.yaml").write_text("encryptionsalt: of review\n")
    review.configure(Pulumi(project, "review-1"), "dev", {"disk_gb": "50"})
    made = yaml.safe_load((project / "Pulumi.review-1.yaml").read_text())
    assert made["encryptionsalt"] == "of review"
    assert made["config"] == {"vast-reranker:disk_gb": "50", "vast-reranker:prefer": "cheapest"}


def test_secrets_of_the_other_stack_are_named_and_not_copied(project):
    written(project, **{"vast-reranker:api_key": {"secure": "v1:cipher"}})
    with pytest.raises(exits.OpsError, match="vast-reranker:api_key") as refused:
        review.configure(Pulumi(project, "review-1"), "dev", {})
    assert "cipher" not in str(refused.value)
    assert not (project / "Pulumi.review-1.yaml").exists()
