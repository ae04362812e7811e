"""A Pulumi program that reads url, api_key and ca_certificate of a reranker stack by a StackReference.

pulumi config set reranker organization/vast-reranker/dev    # with Pulumi Cloud: ORG/vast-reranker/dev
"""

import pulumi

reranker = pulumi.StackReference(pulumi.Config().require("reranker"))
url, ca = reranker.require_output("url"), reranker.require_output("ca_certificate")
key = reranker.require_output("api_key")  # a secret output

# for the environment of a container, a Kubernetes secret or the settings of a function
pulumi.export("environment", {"RERANKER_URL": url, "RERANKER_API_KEY": key, "RERANKER_CA": ca})
