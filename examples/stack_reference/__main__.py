"""A program that uses the reranker of another stack: it reads url, api_key and ca_certificate by a StackReference.

pulumi config set reranker organization/vast-reranker/dev    # backend of your own; Pulumi Cloud: ORG/vast-reranker/dev
"""

import pulumi

reranker = pulumi.StackReference(pulumi.Config().require("reranker"))
url, ca = reranker.require_output("url"), reranker.require_output("ca_certificate")
key = reranker.require_output("api_key")  # stays secret

# give these to whatever calls it: a container's environment, a Kubernetes secret, a function's settings
pulumi.export("environment", {"RERANKER_URL": url, "RERANKER_API_KEY": key, "RERANKER_CA": ca})
